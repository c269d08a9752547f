"""Lists are compared up to ties, and nothing else is let through."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canet_mobile.package.lists import Failure, compare_lists

SCORES = np.array([5.0, 4.0, 3.0, 3.0], np.float32)
IDS = np.array([9, 7, 2, 4])
FULL = np.array([-1e4, 0.0, 3.0, 3.0, 3.0, -1.0, -2.0, 4.0, -3.0, 5.0])


def compare(scores: object, ids: object, *, full: bool, tolerance: float = 1e-4) -> list[str]:
    found = compare_lists(
        SCORES,
        IDS,
        np.array(scores, np.float32),
        np.array(ids),
        tolerance=tolerance,
        full=FULL if full else None,
    )
    return [difference.tensor for difference in found.differences]


@pytest.mark.parametrize("full", [False, True])
def test_equal_and_tied_lists_agree(full: bool) -> None:
    assert compare(SCORES, IDS, full=full) == []
    assert compare(SCORES, [9, 7, 4, 2], full=full) == []
    assert compare(SCORES, [9, 7, 2, 3], full=full) == []  # 3 ties with the last
    assert compare(SCORES + 9e-5, IDS, full=full) == []


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("scores", "ids", "tensors"),
    [
        ([5.0, 4.0, 3.0, 2.9], [9, 7, 2, 4], ["scores[3]", "ids[3]"]),
        ([5.0, 4.0, 3.0, math.nan], [9, 7, 2, 4], ["scores[3]", "ids[3]"]),
        ([5.0, 4.0, 3.0, 3.0], [7, 9, 2, 4], ["ids[0]"]),
        ([5.0, 4.0, 3.0, 3.0], [9, 5, 2, 4], ["ids[1]"]),
        ([5.0, 4.0, 3.0, 3.0], [9, 7, 2, 0], ["ids[3]"]),
        ([5.0, 4.0, 3.0, 3.0], [9, 7, 2, 2], ["ids"]),
    ],
)
def test_every_other_difference_is_found(
    full: bool, scores: list[float], ids: list[int], tensors: list[str]
) -> None:
    assert compare(scores, ids, full=full) == tensors


def test_only_the_whole_catalogue_tells_a_false_tie() -> None:
    assert compare(SCORES, [9, 7, 2, 5], full=False) == []
    assert compare(SCORES, [9, 7, 2, 5], full=True) == ["ids[3]"]
    assert compare(SCORES, [9, 7, 2, 10], full=True) == ["ids[3]"]  # beyond the catalogue


EXAMPLE = (Path(__file__).parent.parent / "docs" / "package.md").read_text(encoding="utf-8")
EXAMPLE = EXAMPLE.partition("### Tied ids")[2].partition("```json")[2].partition("```")[0]


def failed_rules(expected: dict[str, list[float]], case: dict[str, Any], t: float, items: int) -> list[int]:
    """The rules of docs/package.md as they stand there, in a loop that any language can write."""
    e, a, f, b = expected["scores"], expected["ids"], case["scores"], case["ids"]
    failed = []
    if not all(abs(f[i] - e[i]) <= t for i in range(len(e))):
        failed.append(2)
    if len(set(b)) < len(b) or not all(1 <= item <= items for item in b):
        failed.append(3)
    if not all(abs(f[i] - (e[a.index(b[i])] if b[i] in a else e[-1])) <= t for i in range(len(e))):
        failed.append(4)
    return failed


@pytest.mark.parametrize("case", json.loads(EXAMPLE)["cases"], ids=lambda case: f"{case['ids']}")
def test_the_example_of_the_rule_for_tied_ids(case: dict[str, Any]) -> None:
    example = json.loads(EXAMPLE)
    expected, t, items = example["expected"], example["tolerance"], example["items"]
    found = compare_lists(
        np.array(expected["scores"]),
        np.array(expected["ids"]),
        np.array(case["scores"], np.float32),
        np.array(case["ids"]),
        tolerance=t,
        items=items,
    )
    assert (not found.differences) == case["right"] == (not failed_rules(expected, case, t, items))
    assert case["right"] or case["why"] in failed_rules(expected, case, t, items)


@given(st.data())
def test_the_documented_rule_is_the_code(data: st.DataObject) -> None:
    """On lists full of ties, near ties and strangers the plain loop and the code say the same."""
    score = st.integers(-4, 4).map(float)
    e = sorted(data.draw(st.lists(score, min_size=1, max_size=5)), reverse=True)
    k = len(e)
    a = data.draw(st.lists(st.integers(1, 7), min_size=k, max_size=k, unique=True))
    f = data.draw(st.lists(score, min_size=k, max_size=k) | st.just(e))
    b = data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k) | st.permutations(a))
    found = compare_lists(np.array(e), np.array(a), np.array(f), np.array(b), tolerance=1.0, items=7)
    case = {"scores": f, "ids": b}
    assert (not found.differences) == (not failed_rules({"scores": e, "ids": a}, case, 1.0, 7))


def test_a_failure_names_route_user_tensor_expected_and_found() -> None:
    failure = Failure("structural", "e8_h8_d1", "user 17", "scores[0]", "5", "6")
    assert str(failure) == "structural: e8_h8_d1, user 17, scores[0]: expected 5, found 6"
