"""Where a command's result goes: a file when asked for, then stdout as JSON or as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from canet_mobile.files import write_json
from canet_mobile.schema import validate


def emit(
    report: dict[str, Any],
    schema: str,
    *,
    out: Path | None,
    as_json: bool,
    text: Callable[[dict[str, Any]], None],
) -> None:
    """Check a report against its schema, write it to ``out``, and print it.

    Raises:
        CanetError: the report is not of its schema, or ``out`` cannot be written.
    """
    validate(report, schema, where="the report")
    if out is not None:
        write_json(out, report)
        click.echo(f"wrote {out}", err=True)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        text(report)
