"""Comparing two top-k lists, and what a parity check says when they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Failure:
    """One difference between a package and what it should compute.

    Args:
        check: the check that found it.
        entry: the method, None when it is about no single one.
        case: the input: ``user 17``, ``user 17, newest item alone`` or ``golden.jsonl line 3``; None without.
        tensor: the output, weight or file that differs.
        expected, found: in words short enough for one line.
        excess: how many times the limit the error is (inf for what admits no error): the worst comes first.
    """

    check: str
    entry: str | None
    case: str | None
    tensor: str
    expected: str
    found: str
    excess: float = math.inf

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.entry, self.case, self.tensor) if part)
        return f"{self.check}: {place}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Check:
    """The outcome of one parity check.

    Args:
        name: what was checked.
        passed: None when the check could not decide, and ``detail`` says why.
        cases: number of comparisons.
        value: the measured figure, None when there is none.
        limit: its limit.
        detail: one sentence.
        failures: every difference.
    """

    name: str
    passed: bool | None
    cases: int
    value: float | None
    limit: float | None
    detail: str
    failures: tuple[Failure, ...] = field(default=())


@dataclass(frozen=True)
class Difference:
    """One output of one list that is off: the error beside its tolerance."""

    tensor: str
    expected: str
    found: str
    error: float


@dataclass(frozen=True)
class ListComparison:
    """Largest score error of one list, and what is beyond the tolerance."""

    error: float
    differences: tuple[Difference, ...]


def compare_lists(
    expected_scores: Floats,
    expected_ids: Ints,
    found_scores: Floats,
    found_ids: Ints,
    *,
    tolerance: float,
    full: Floats | None = None,
    items: int | None = None,
) -> ListComparison:
    """Compare two descending lists; equal scores may stand in any order (docs/package.md, "Tied ids").

    The scores are compared position by position. An id is right when its score is within the tolerance of
    the score that the reference gives this very id; without ``full``, an id that the reference's list lacks
    must tie with the last of that list.

    Args:
        expected_scores, expected_ids: the reference's list [k].
        found_scores, found_ids: the package's list [k].
        tolerance: largest absolute score error allowed.
        full: the reference's score of every class [V+1], when it is known.
        items: V, where ``full`` does not tell it.
    """
    differences = []
    errors = np.abs(found_scores.astype(np.float64) - expected_scores.astype(np.float64))
    errors = np.where(np.isfinite(errors), errors, np.inf)
    worst = int(errors.argmax())
    if not errors[worst] <= tolerance:
        differences.append(
            Difference(
                f"scores[{worst}]",
                f"{expected_scores[worst]:.6g} ± {tolerance:.1e}",
                f"{found_scores[worst]:.6g}",
                float(errors[worst]),
            )
        )
    if len(set(found_ids.tolist())) != len(found_ids):
        differences.append(Difference("ids", "no id twice", str(found_ids.tolist()), math.inf))
    known = items if full is None else len(full) - 1
    bad = _worst_id(expected_scores, expected_ids, found_scores, found_ids, full, known)
    if bad is not None and not bad[1] <= tolerance:
        place, error, right = bad
        differences.append(
            Difference(
                f"ids[{place}]",
                f"{expected_ids[place]} ({right})",
                f"{found_ids[place]} with score {found_scores[place]:.6g}",
                error,
            )
        )
    id_error = bad[1] if bad is not None and math.isfinite(bad[1]) else 0.0
    return ListComparison(max(float(errors[worst]), id_error), tuple(differences))


def _worst_id(
    expected_scores: Floats,
    expected_ids: Ints,
    found_scores: Floats,
    found_ids: Ints,
    full: Floats | None,
    items: int | None,
) -> tuple[int, float, str] | None:
    """Position, error and explanation of the id whose score is furthest from the reference's for it."""
    listed = dict(zip(expected_ids.tolist(), expected_scores.tolist(), strict=True))
    worst: tuple[int, float, str] | None = None
    for place, (item, score) in enumerate(zip(found_ids.tolist(), found_scores.tolist(), strict=True)):
        if item < 1 or (items is not None and item > items):
            return place, math.inf, f"item {item} does not exist"
        right = listed.get(item, float(expected_scores[-1])) if full is None else float(full[item])
        error = abs(score - right)
        if not math.isfinite(error):
            error = math.inf
        if worst is None or error > worst[1]:
            said = (
                f"item {item} has {right:.6g}"
                if full is not None or item in listed
                else f"{item} is not listed"
            )
            worst = place, error, said
    return worst
