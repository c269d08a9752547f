"""Statistics over seeds and users."""

from __future__ import annotations

import numpy as np
import pytest

from canet_mobile.compare.record import converged
from canet_mobile.compare.statistics import differs, over_seeds, paired_bootstrap


def test_the_bootstrap_agrees_with_the_normal_interval_and_is_paired() -> None:
    generator = np.random.default_rng(0)
    ability = generator.random(4000)
    first = ability + 0.02 + generator.normal(0, 0.05, 4000).round(3)
    found = paired_bootstrap(first, ability)
    gap = first - ability
    half = 1.96 * gap.std(ddof=1) / np.sqrt(4000)
    assert found["difference"] == pytest.approx(gap.mean()) and found["n"] == 4000
    assert (found["low"], found["high"]) == pytest.approx(
        (gap.mean() - half, gap.mean() + half), abs=half * 0.1
    )
    assert differs(found), "unpaired, the spread of ability would hide it"
    assert paired_bootstrap(first, ability) == found


def test_the_bootstrap_of_equals_is_zero() -> None:
    values = np.array([0.0, 1.0, 0.5])
    found = paired_bootstrap(values, values)
    assert found == {"difference": 0, "low": 0, "high": 0, "n": 3} and not differs(found)


def test_one_seed_tells_nothing_about_seeds() -> None:
    assert over_seeds([0.5])["se"] is None
    found = over_seeds([0.4, 0.6])
    assert (found["mean"], found["se"]) == pytest.approx((0.5, 0.1)) and found["values"] == [0.4, 0.6]


@pytest.mark.parametrize(
    ("stopped_by", "best", "is_converged"),
    [("patience", 1, True), ("epochs", 4, False), ("epochs", 2, False), ("max_minutes", 2, False)],
)
def test_only_patience_says_that_a_run_has_converged(stopped_by: str, best: int, is_converged: bool) -> None:
    assert converged({"stopped_by": stopped_by, "best_epoch": best, "epochs": 5}) is is_converged
