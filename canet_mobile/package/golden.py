"""golden.jsonl: what a package must answer to a few histories per route, for the self-test at start-up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.model.points import POINTS
from canet_mobile.package.manifest import AGAIN, Manifest
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.schema import problem
from canet_mobile.strict_json import JsonProblem, parse_json

ROWS_PER_ENTRY = 2


@dataclass(frozen=True)
class GoldenRow:
    """One row of the self-test.

    Args:
        line: its line in golden.jsonl, from 1.
        input: left-padded item ids [L] int32.
        routes: the router's answer to ``input`` at every operating point, in the order of POINTS.
        entry: the submodel that ``scores`` and ``ids`` belong to.
        scores: [k] float64, descending.
        ids: [k] int64.
        reference: ``pytorch_fp32``, ``pytorch_same_halves`` or ``pytorch_same_integers``.
    """

    line: int
    input: NDArray[np.int32]
    routes: tuple[int, ...]
    entry: str
    scores: NDArray[np.float64]
    ids: NDArray[np.int64]
    reference: str


def read_golden(path: Path, manifest: Manifest, *, shown: Path) -> tuple[GoldenRow, ...]:
    """Read and check golden.jsonl: one JSON document a line, each as strict as the manifest.

    Args:
        path: the file.
        manifest: of its package.
        shown: how errors name it.

    Raises:
        Refused: a line is not a valid row of this package, or an exported route has too few of them.
    """
    rows = []
    # Split at line feeds alone: str.splitlines ends lines at letters that may stand inside a JSON string.
    lines = path.read_bytes().split(b"\n")
    for line, data in enumerate(lines if lines[-1] else lines[:-1], start=1):
        try:
            row = parse_json(data)
        except JsonProblem as error:
            raise _invalid(f"line {line}: {error}", shown) from error
        found = problem(row, "golden") or _golden_problem(row, manifest)
        if found:
            raise _invalid(f"line {line}: {found}", shown)
        rows.append(
            GoldenRow(
                line,
                np.array(row["input"], dtype=np.int32),
                tuple(row["routes"]),
                row["entry"],
                np.array(row["scores"], dtype=np.float64),
                np.array(row["ids"], dtype=np.int64),
                row["reference"],
            )
        )
    counts = Counter(row.entry for row in rows)
    for route in manifest.routes:
        if counts[route.entry] < ROWS_PER_ENTRY:
            raise _invalid(
                f"{counts[route.entry]} rows for {route.entry}, at least {ROWS_PER_ENTRY} are needed", shown
            )
    if not any((row.input > 0).sum() == 1 for row in rows):
        raise _invalid("no row has a history of one item", shown)
    return tuple(rows)


def _invalid(what: str, where: Path) -> Refused:
    return Refused(Code.GOLDEN_INVALID, what, where=where, fix=AGAIN)


def _golden_problem(row: dict[str, Any], manifest: Manifest) -> str | None:
    items, length, k = manifest.items, manifest.length, manifest.k
    history = [item for item in row["input"] if item]
    exported = {route.id for route in manifest.routes}
    entries = {route.entry for route in manifest.routes}
    astray = [route for route in row["routes"] if route not in exported]
    checks = (
        (len(row["input"]) == length, f"input has {len(row['input'])} ids, the length is {length}"),
        (bool(history), "input is all padding"),
        (row["input"] == [0] * (len(row["input"]) - len(history)) + history, "input is not left-padded"),
        (max(row["input"]) <= items, f"input holds id {max(row['input'])}, ids run 1..{items}"),
        (
            len(row["routes"]) == len(POINTS),
            f"routes holds {len(row['routes'])} ids, there are {len(POINTS)} operating points",
        ),
        (not astray, f"routes holds {astray[:1]}, which is not exported"),
        (row["entry"] in entries, f"entry {row['entry']!r} is not exported"),
        (len(row["ids"]) == k, f"{len(row['ids'])} ids, k is {k}"),
        (len(row["scores"]) == k, f"{len(row['scores'])} scores, k is {k}"),
        (max(row["ids"]) <= items, f"ids hold {max(row['ids'])}, ids run 1..{items}"),
        (row["scores"] == sorted(row["scores"], reverse=True), "scores do not descend"),
    )
    return next((said for holds, said in checks if not holds), None)
