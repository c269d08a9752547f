"""golden.jsonl: what a package must answer to a few histories per route, for the self-test at start-up."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import CanetError
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.schema import validate

GOLDEN = "golden.jsonl"
ROWS_PER_ENTRY = 2
_AGAIN = "export or copy the package again"


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


def read_golden(path: Path, manifest: dict[str, Any], space: RoutingSpace) -> tuple[GoldenRow, ...]:
    """Read and check golden.jsonl.

    Raises:
        CanetError: a line is not a valid row of this package, or an exported route has too few of them.
    """
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise CanetError(f"line {line} is not JSON ({error})", where=path, fix=_AGAIN) from error
        validate(row, "golden", where=f"{path}, line {line}")
        problem = _golden_problem(row, manifest, space)
        if problem:
            raise CanetError(f"line {line}: {problem}", where=path, fix=_AGAIN)
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
    for entry in (route["entry"] for route in manifest["routes"]):
        if counts[entry] < ROWS_PER_ENTRY:
            raise CanetError(
                f"{counts[entry]} rows for {entry}, at least {ROWS_PER_ENTRY} are needed",
                where=path,
                fix=_AGAIN,
            )
    if not any((row.input > 0).sum() == 1 for row in rows):
        raise CanetError("no row has a history of one item", where=path, fix=_AGAIN)
    return tuple(rows)


def _golden_problem(row: dict[str, Any], manifest: dict[str, Any], space: RoutingSpace) -> str | None:
    items, length, k = manifest["items"], manifest["length"], manifest["k"]
    history = [item for item in row["input"] if item]
    entries = {route["entry"] for route in manifest["routes"]}
    checks = (
        (len(row["input"]) == length, f"input has {len(row['input'])} ids, the length is {length}"),
        (bool(history), "input is all padding"),
        (row["input"] == [0] * (len(row["input"]) - len(history)) + history, "input is not left-padded"),
        (max(row["input"]) <= items, f"input holds id {max(row['input'])}, ids run 1..{items}"),
        (
            len(row["routes"]) == len(POINTS),
            f"routes holds {len(row['routes'])} ids, there are {len(POINTS)} operating points",
        ),
        (max(row["routes"]) < len(space), f"routes holds {max(row['routes'])}, the space has {len(space)}"),
        (row["entry"] in entries, f"entry {row['entry']!r} is not exported"),
        (len(row["ids"]) == k, f"{len(row['ids'])} ids, k is {k}"),
        (len(row["scores"]) == k, f"{len(row['scores'])} scores, k is {k}"),
        (max(row["ids"]) <= items, f"ids hold {max(row['ids'])}, ids run 1..{items}"),
        (all(math.isfinite(score) for score in row["scores"]), "a score is not finite"),
        (row["scores"] == sorted(row["scores"], reverse=True), "scores do not descend"),
    )
    return next((problem for holds, problem in checks if not holds), None)
