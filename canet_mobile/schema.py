"""JSON Schemas: one home for the shape of every document that leaves a command."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from canet_mobile.errors import CanetError
from canet_mobile.files import AGAIN

SHOWN = 500  # characters of what jsonschema says, which may print a whole document


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema ``schemas/<name>.schema.json`` that ships with the package."""
    text = (resources.files("canet_mobile.schemas") / f"{name}.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def validate(document: Any, name: str, *, where: object, fix: str = AGAIN) -> None:
    """Check a document against a schema.

    Args:
        document: plain values.
        name: of the schema.
        where: the file it came from.
        fix: what helps when a field is not as it should be.

    Raises:
        CanetError: names the file, the field, the value and what was expected.
    """
    import jsonschema

    schema = load_schema(name)
    expected = schema["properties"].get("schema_version", {}).get("const")
    found = document.get("schema_version") if isinstance(document, dict) else None
    if expected is not None and found != expected:
        raise CanetError(
            f"schema_version is {found!r}, this version of canet-mobile reads {expected!r}",
            where=where,
            fix=f"{AGAIN} with this version",
        )
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        said = error.message if len(error.message) <= SHOWN else f"{error.message[:SHOWN]} …"
        raise CanetError(f"field {error.json_path}: {said}", where=where, fix=fix)
