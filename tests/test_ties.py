"""Equal but for rounding is equal: what is chosen hangs neither on the order of a sum nor on its last bits.

NumPy's OpenBLAS adds in another order on another processor. Here users are permuted, and every figure is
moved by a few units of its last place, which does the same to a sum on any one processor; and where OpenBLAS
can be told to take the kernels of older processors, it is.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile import ties
from canet_mobile.compare.contrasts import same_cost
from canet_mobile.evaluate import routing
from canet_mobile.model.space import RoutingSpace
from canet_mobile.routing.candidates import Judged
from canet_mobile.routing.ladder import SHARES, choose_ladder, choose_share, escalated, order_of
from canet_mobile.routing.points import price_of, routes_at

USERS = 1000
SPACE = RoutingSpace((8,), (8,), (1, 2, 3, 4))
COSTS = np.array([1.0, 2.0, 3.0, 4.0])
BY_RANK = np.append(1 / np.log2(np.arange(10) + 2.0), np.zeros(20))  # NDCG@10 of a hit, and of many misses


def nudged(values: np.ndarray, generator: np.random.Generator, ulps: int = 3) -> np.ndarray:
    """Every figure moved by at most so many units of its last place."""
    return values * (1 + np.finfo(np.float64).eps * generator.integers(-ulps, ulps + 1, values.shape))


def shaken(judged: Judged, generator: np.random.Generator) -> Judged:
    """The same users in another order, with the last bits of their figures changed."""
    order = generator.permutation(judged.ndcg10.shape[1])
    return Judged(
        judged.space, judged.routes, nudged(judged.ndcg10[:, order], generator), judged.entropy[:, order]
    )


def chosen(judged: Judged, costs: np.ndarray, allowed: float, *, gain: bool) -> tuple[object, ...]:
    """What is decided: the two routes, who goes first, and both shares."""
    ladder, _ = choose_ladder(judged, costs, allowed, gain=gain)
    order = order_of(judged, ladder.first, judged.routes.index(ladder.small))
    again = choose_share(judged, ladder, order, costs, allowed)
    return ladder.small, ladder.large, ladder.first, round(ladder.share, 9), round(again.share, 9)


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("kind", ["all routes alike", "two routes alike", "ranks", "no user hit"])
def test_a_ladder_does_not_hang_on_the_order_of_users_or_the_last_bits(kind: str, gain: bool) -> None:
    generator = np.random.default_rng(7)
    ndcg10 = {
        "all routes alike": np.full((3, USERS), 0.3),
        "two routes alike": np.tile([[0.1], [0.3], [0.3]], USERS),
        "ranks": np.tile(generator.choice(BY_RANK, USERS), (3, 1)),
        "no user hit": np.zeros((3, USERS)),
    }[kind]
    judged = Judged(SPACE, (0, 1, 3), ndcg10, np.tile(np.linspace(0, 1, USERS), (3, 1)))
    for allowed in (1.25, 2.0, 4.0):  # 1.25 is what the least share on the first step costs
        wanted = chosen(judged, COSTS, allowed, gain=gain)
        found = {
            chosen(shaken(judged, generator), nudged(COSTS, generator), allowed, gain=gain) for _ in range(20)
        }
        assert found == {wanted}


LADDERS = """
import numpy as np
from canet_mobile.model.space import RoutingSpace
from canet_mobile.routing.candidates import Judged
from canet_mobile.routing.ladder import choose_ladder

doubt = np.tile(np.linspace(0, 1, 1000), (3, 1))
for space in (RoutingSpace((8,), (8,), (1, 2, 3, 4)), RoutingSpace((8,), (8, 16), (1, 2))):
    for value in (0.1, 0.3, 0.7, 1 / np.log2(3)):
        judged = Judged(space, (0, 1, 3), np.full((3, 1000), value), doubt)
        for gain in (True, False):
            ladder, _ = choose_ladder(judged, np.array([1.0, 2.0, 3.0, 4.0]), 4.0, gain=gain)
            print(ladder.small, ladder.large, ladder.first, ladder.share)
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names kernels of x86-64 processors"
)
@pytest.mark.parametrize("kernels", ["Haswell", "Nehalem"])
def test_a_ladder_is_the_same_with_the_kernels_of_another_processor(kernels: str) -> None:
    """As it was: with those for AVX-512, which newer processors take by themselves, the largest share."""

    def ladders(**environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", LADDERS],
            capture_output=True, text=True, timeout=120, check=True, env={**os.environ, **environment},
            encoding="utf-8",)  # fmt: skip
        return done.stdout.splitlines()

    here = ladders()
    assert here == ladders(OPENBLAS_CORETYPE=kernels)
    assert {tuple(line.split()) for line in here} == {("0", "1", "entropy", str(SHARES[0]))}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_ladders_of_any_users_are_the_same_in_any_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ndcg10 = generator.choice(BY_RANK, (3, 200))
    judged = Judged(SPACE, (0, 1, 3), ndcg10, generator.random((3, 200)))
    wanted = chosen(judged, COSTS, 3.0, gain=True)
    assert chosen(shaken(judged, generator), COSTS, 3.0, gain=True) == wanted


def test_a_budget_that_just_pays_for_the_least_share_is_met() -> None:
    judged = Judged(SPACE, (0, 3), np.tile([[0.1], [0.9]], USERS), np.tile(np.linspace(0, 1, USERS), (2, 1)))
    costs = np.array([0.1, 0.2, 0.3, 0.7])
    allowed = 0.1 + SHARES[0] * 0.6
    for budget in (allowed, np.nextafter(allowed, 0), np.nextafter(allowed, 1)):
        ladder, _ = choose_ladder(judged, costs, float(budget))
        assert ladder.budget_met and ladder.share == pytest.approx(SHARES[0])


def test_users_of_equal_histories_are_escalated_together_or_not() -> None:
    """Their figures come from batches of other forms, and float32 rounds there as it likes."""
    generator = np.random.default_rng(0)
    cold = 5 + 5e-7 * generator.standard_normal(60)  # as many users of one and the same history
    order = np.concatenate([np.linspace(6, 7, 20), cold, np.linspace(3, 4, 20)])
    assert escalated(order, 0.5).sum() == 20
    assert escalated(order, 0.2).sum() == 20 and escalated(order, 0.8).sum() == 80


def test_a_fixed_route_that_costs_the_budget_itself_fits_it() -> None:
    """Where everybody takes one route, the average cost is that route's, but for rounding."""
    costs, quality = np.array([1.0, 0.1, 8.0]), np.array([0.2, 0.5, 0.9])
    for budget in (1.0, np.nextafter(1.0, 0)):
        assert routing.best_fixed(costs, np.array([0.5, 0.2, 0.1]), budget) == routing.Mixture(0, 0, 0.0)
        assert routing.best_fixed(costs, quality, budget).expected(costs) <= 1.0


def test_a_single_route_is_preferred_to_an_equal_mixture_whatever_the_last_bits() -> None:
    generator = np.random.default_rng(1)
    costs = np.array([1.0, 2.0, 4.0, 8.0])
    for _ in range(50):
        quality = nudged(np.full(4, 0.3), generator, ulps=8)
        assert routing.best_fixed(costs, quality, 3.0) == routing.Mixture(0, 0, 0.0)


def test_what_rounding_leaves_of_a_difference_is_none() -> None:
    values = np.random.default_rng(0).random(USERS)
    same = 0.1 * values + 0.2 * values + 0.7 * values  # equal in exact arithmetic
    gap = routing.paired(values, same)
    for found in (gap, {"value": 3e-17, "se": 1e-18}, {"value": -3e-17, "se": 0.0}):
        assert not routing.is_better(found) and not routing.is_worse(found)


def test_of_plain_models_equally_near_in_cost_the_cheaper_one_is_taken() -> None:
    def method(name: str, cost: float) -> dict:
        metrics = {"keep": {"ndcg@10": {"mean": 0.1}}}
        return {"name": name, "metrics": metrics, "paper_mflops": {"mean": cost}}

    for own in (np.sqrt(0.7 * 2.1), np.nextafter(np.sqrt(0.7 * 2.1), 9)):
        rows = [method("sasrec-96x2", 2.1), method("sasrec-64x2", 0.7), method("canet", float(own))]
        document = {"methods": rows, "pairs": [], "protocol": "keep"}
        assert [row["sasrec"] for row in same_cost(document)] == ["sasrec-64x2"]


def test_a_price_keeps_its_distance_from_costs_that_round_otherwise() -> None:
    generator = np.random.default_rng(3)
    logits = np.stack([np.zeros(101), np.linspace(-1, 1, 101)], 1)
    costs = np.array([0.1, 0.3])
    target = float(costs[np.repeat([0, 1], [51, 50])].mean())
    for _ in range(20):
        price = price_of(logits, costs, float(nudged(np.array(target), generator)))
        assert (routes_at(logits, costs, price) == 1).sum() == 50


def test_the_best_is_found_by_one_figure_after_the_other() -> None:
    rows = [(0.3, 1.0), (0.1 + 0.2, 2.0), (0.2, 9.0)]
    assert 0.1 + 0.2 > 0.3, "by rounding"
    assert ties.best(rows, lambda row: row[0], lambda row: -row[1]) == (0.3, 1.0)
    assert ties.best(rows, lambda row: row[0], lambda row: row[1]) == (0.1 + 0.2, 2.0)
    assert ties.best(rows, lambda row: row[0]) is rows[0], "the first of equals"
    with pytest.raises(ValueError, match="no rows"):
        ties.best([], lambda row: 0.0)
    assert ties.exceeds(1e-6, 0) and not ties.exceeds(1e-12, 0)
    assert ties.at_most(300 * (1 + 1e-12), 300) and not ties.at_most(300.001, 300)
