"""JSON Schemas: one home for the shape of every document that leaves a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from canet_mobile.errors import CanetError
from canet_mobile.files import AGAIN

Row = TypeVar("Row")
SHOWN = 500  # characters of what jsonschema says, which may print a whole document


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema ``schemas/<name>.schema.json`` that ships with the package."""
    text = (resources.files("canet_mobile.schemas") / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


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
    schema = load_schema(name)
    expected = schema["properties"].get("schema_version", {}).get("const")
    found = document.get("schema_version") if isinstance(document, dict) else None
    if expected is not None and (found != expected or type(found) is not int):
        raise CanetError(
            f"schema_version is {found!r}, this version of canet-mobile reads {expected!r}",
            where=where,
            fix=f"{AGAIN} with this version",
        )
    if found_problem := problem(document, name):
        raise CanetError(found_problem, where=where, fix=fix)


def problem(document: Any, name: str) -> str | None:
    """The field of a document that does not fit a schema best explains why; None when all of it fits."""
    import jsonschema

    error = jsonschema.exceptions.best_match(_validator(name).iter_errors(document))
    if error is None:
        return None
    said = error.message if len(error.message) <= SHOWN else f"{error.message[:SHOWN]} …"
    return f"field {error.json_path}: {said}"


@cache
def _validator(name: str) -> Any:
    """The validator of a schema, with two rules that other languages' readers have anyway.

    JSON Schema takes 60.0 for an integer, which a typed reader refuses. Python's ``$`` matches before a last
    line feed, which the patterns do not mean: all of ours say the whole string.
    """
    import jsonschema

    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[Any]:
        if isinstance(value, str) and not re.fullmatch(wanted, value):
            yield jsonschema.ValidationError(f"{value!r} does not match {wanted!r}")

    plain = jsonschema.Draft202012Validator
    checker = plain.TYPE_CHECKER.redefine("integer", is_integer)
    return jsonschema.validators.extend(plain, {"pattern": pattern}, type_checker=checker)(load_schema(name))


def typed(kind: type[Row], found: dict[str, Any]) -> Row:
    """A dataclass from the fields of a valid document's object; what that omits has a default."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in found.items() if name in known})
