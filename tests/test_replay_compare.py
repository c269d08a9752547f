"""Lists are compared up to ties, and nothing else is let through."""

from __future__ import annotations

import math

import numpy as np
import pytest

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


def test_a_failure_names_route_user_tensor_expected_and_found() -> None:
    failure = Failure("structural", "e8_h8_d1", "user 17", "scores[0]", "5", "6")
    assert str(failure) == "structural: e8_h8_d1, user 17, scores[0]: expected 5, found 6"
