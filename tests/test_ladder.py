"""Which two routes, who first, and which share of the users: hand-made users whose best ladder is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from canet_mobile.model.space import RoutingSpace
from canet_mobile.routing.candidates import Judged
from canet_mobile.routing.ladder import SHARES, choose_ladder, choose_share, escalated, order_of

USERS = 1000
SPACE = RoutingSpace((8,), (8,), (1, 2, 3, 4))  # nested: every route is part of the next
COSTS = np.array([1.0, 2.0, 3.0, 4.0])
RISING = np.linspace(0, 1, USERS)


def judged(
    ndcg10: np.ndarray, *, doubt: np.ndarray = RISING, routes=(0, 1, 3), space: RoutingSpace = SPACE
) -> Judged:
    """Candidates whose NDCG@10 is given; ``doubt`` [n] is the entropy of every one of them."""
    return Judged(space, routes, ndcg10, np.tile(doubt, (len(routes), 1)))


def users(*values: float) -> np.ndarray:
    """NDCG@10 of each candidate, [c, n], the same for every user."""
    return np.tile(np.array(values)[:, None], USERS)


@pytest.mark.parametrize("keys", [{"label": "entropy"}, {"gain": False}])
@pytest.mark.parametrize("allowed", [1.8, 2.0, 2.6, 3.2])
def test_the_average_cost_keeps_to_what_is_allowed(allowed: float, keys: dict[str, Any]) -> None:
    # Every user is better off on the largest route: as many go there as the budget pays for.
    ladder, taken = choose_ladder(judged(users(0.1, 0.101, 0.9)), COSTS, allowed, **keys)
    assert (ladder.small, ladder.large) == (0, 3) and ladder.budget_met
    assert ladder.cost == COSTS[taken].mean() <= allowed
    assert ladder.share == pytest.approx((allowed - 1) / 3) and allowed - ladder.cost < 3 / USERS + 1e-9
    assert set(taken) == {0, 3} and (taken == 3).mean() == pytest.approx(ladder.share, abs=2 / USERS)


@pytest.mark.parametrize(("label", "sign"), [("entropy", 1), ("confidence", -1)])
def test_the_unsure_or_the_sure_are_escalated_as_the_label_says(label: str, sign: int) -> None:
    doubt = np.random.default_rng(1).standard_normal(USERS)
    actual = np.stack([np.zeros(USERS), np.zeros(USERS), np.ones(USERS)])
    ladder, taken = choose_ladder(judged(actual, doubt=doubt), COSTS, 2.0, label)
    assert ladder.first == label
    up, down = (sign * doubt[taken == route] for route in (ladder.large, ladder.small))
    assert up.min() > down.max()


@pytest.mark.parametrize(("gaining", "first"), [(RISING > 0.65, "entropy"), (RISING < 0.35, "confidence")])
def test_auto_escalates_those_who_gain(gaining: np.ndarray, first: str) -> None:
    actual = users(0.3, 0.3, 0.3)
    actual[1:] += np.where(gaining, 0.2, -0.1)
    ladder, taken = choose_ladder(judged(actual), COSTS, 4.0, "auto")
    assert (ladder.first, ladder.small) == (first, 0)
    assert gaining[taken == ladder.large].all()
    assert ladder.ndcg10 == pytest.approx(np.where(taken == 0, actual[0], actual[1]).mean())


def test_order_is_the_doubt_of_the_small_route_or_its_opposite() -> None:
    found = Judged(SPACE, (0, 3), np.zeros((2, 2)), np.array([[7.0, 8.0], [1.0, 2.0]]))
    assert order_of(found, "entropy", 0).tolist() == [7.0, 8.0]
    assert order_of(found, "confidence", 1).tolist() == [-1.0, -2.0]


def test_escalated_takes_the_highest_share() -> None:
    order = np.random.default_rng(0).permutation(100).astype(float)
    for share in (0.2, 0.35, 0.8):
        up = escalated(order, share)
        assert up.sum() == round(100 * share) and order[up].min() > order[~up].max()
    assert not escalated(np.zeros(10), 0.5).any(), "nobody is before anybody else"


def test_most_limits_the_share() -> None:
    everybody = judged(users(0.0, 0.0, 1.0))
    assert choose_ladder(everybody, COSTS, 4.0, most=0.4)[0].share == pytest.approx(0.4)
    assert choose_ladder(everybody, COSTS, 4.0, most=0.05)[0].share == pytest.approx(0.05)


def test_among_equals_the_cheapest_ladder_is_taken() -> None:
    # Nothing distinguishes the routes, so nothing is paid for beyond the least share on the cheapest step.
    ladder, _ = choose_ladder(judged(users(0.3, 0.3, 0.3)), COSTS, 4.0)
    assert (ladder.small, ladder.large, ladder.share) == (0, 1, SHARES[0])


def test_without_gains_a_dearer_ladder_needs_more_than_a_quarter_of_a_standard_error() -> None:
    lead = 0.3 * np.random.default_rng(3).standard_normal(USERS // 10)
    lead -= lead.mean()
    error = lead.std() * np.sqrt(len(lead)) / USERS  # of the mean over all users; the others do not matter
    for distance, share in ((0.2, 0.25), (0.3, 0.35)):
        actual = users(0.2, 0.2)
        actual[1, 650:750] += lead + distance * error * USERS / len(lead)
        found = judged(actual, routes=(0, 1))
        assert choose_ladder(found, COSTS, 4.0, "entropy", most=0.35, gain=False)[0].share == share


def test_a_ladder_of_less_gain_by_choosing_needs_more_than_a_standard_error() -> None:
    # The 350 most unsure gain; the next 150 are better off by accident.
    lead = 0.3 * np.random.default_rng(3).standard_normal(150)
    lead -= lead.mean()
    error = lead.std() * np.sqrt(len(lead)) / USERS
    for distance, share in ((0.9, 0.35), (1.1, 0.5)):
        actual = users(0.3, 0.3)
        actual[1, 650:] += 0.2
        actual[1, 500:650] += lead + distance * error * USERS / len(lead)
        ladder, taken = choose_ladder(judged(actual, routes=(0, 1)), COSTS, 4.0, "entropy", most=0.5)
        assert ladder.share == share and ladder.ndcg10 == pytest.approx(
            actual[taken, np.arange(USERS)].mean()
        )


def test_gains_are_measured_where_means_are_smoothed() -> None:
    # By widths and depths alone the largest route is as good as the narrow one for everybody; it is not.
    space = RoutingSpace((8,), (8, 16), (1, 2))
    entries = [route.entry for route in space]
    actual = np.full((4, USERS), 0.3)
    swing = np.where(RISING > 0.5, 0.2, -0.2)
    for entry, sign in (("e8_h8_d1", 1), ("e8_h16_d2", 1), ("e8_h8_d2", -1), ("e8_h16_d1", -1)):
        actual[entries.index(entry)] += sign * swing
    found = judged(actual, routes=(0, 1, 2, 3), space=space)
    assert found.smoothed == pytest.approx(0.3)
    ladder, _ = choose_ladder(found, COSTS, 4.0)
    assert ladder.share == 0.5 and ladder.ndcg10 == pytest.approx(0.5)
    unmeasured, _ = choose_ladder(found, COSTS, 4.0, gain=False)
    assert unmeasured.share == SHARES[0]


def test_a_larger_route_holds_the_smaller_one() -> None:
    # e8_h8_d2 and e8_h16_d1 are parts of e8_h16_d2, neither of the other.
    space = RoutingSpace((8,), (8, 16), (1, 2))
    entries = [route.entry for route in space]
    lucky = np.full((4, USERS), 0.1)
    unsure = RISING > 0.5
    lucky[entries.index("e8_h16_d1"), unsure] = 0.9  # best mixed with e8_h8_d2, and that is not on offer
    lucky[entries.index("e8_h8_d2"), ~unsure] = 0.9
    ladder, _ = choose_ladder(judged(lucky, routes=(0, 1, 2, 3), space=space), COSTS, 4.0, "entropy")
    small, large = space.routes[ladder.small], space.routes[ladder.large]
    assert small.hidden <= large.hidden and small.depth <= large.depth


def test_costs_that_fall_with_size_leave_every_rising_pair() -> None:
    ladder, _ = choose_ladder(judged(users(0.1, 0.2, 0.3)), COSTS[::-1].copy(), 4.0)
    assert ladder.small > ladder.large


def test_a_budget_below_everything_takes_the_cheapest_ladder_and_says_so() -> None:
    ladder, taken = choose_ladder(judged(users(0.1, 0.5, 0.9)), COSTS, 0.5)
    assert (ladder.small, ladder.large, ladder.share) == (0, 1, SHARES[0])
    assert not ladder.budget_met and ladder.cost == COSTS[taken].mean() > 0.5


def test_the_share_follows_the_order_that_the_router_really_has() -> None:
    # The last half of the users gain from the large route, the first half lose.
    actual = np.full((2, USERS), 0.5)
    actual[1] += np.where(np.arange(USERS) < USERS // 2, -0.3, 0.3)
    found = judged(actual, routes=(0, 3))
    ladder, _ = choose_ladder(found, COSTS, 4.0)
    assert ladder.share == 0.5 and ladder.first == "entropy"
    good = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 4.0)
    assert good.share == 0.5 and good.ndcg10 == pytest.approx(0.65)
    wrong = choose_share(found, ladder, -np.arange(USERS) / USERS, COSTS, 4.0, most=0.8)
    assert (wrong.small, wrong.large) == (0, 3) and wrong.ndcg10 == pytest.approx(0.44)
    tight = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 1.9)
    assert tight.share == pytest.approx(0.3) and tight.cost <= 1.9 and tight.budget_met
    missed = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 1.1)
    assert missed.share == SHARES[0] and not missed.budget_met


def test_a_share_is_chosen_by_whom_it_serves_not_by_what_choosing_adds() -> None:
    """Half of the users gain much by the larger route, a quarter a little: choosing adds most at half."""
    actual = users(0.3, 0.3, 0.3)
    gains = np.where(RISING > 0.5, 0.2, np.where(RISING > 0.25, 0.002, -0.2))
    gains += 0.3 * np.random.default_rng(0).standard_normal(USERS)  # so that nothing is sure
    actual[1:] += gains
    found = judged(actual)
    ladder, _ = choose_ladder(found, COSTS, 4.0, "entropy")
    chosen = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 4.0)
    served = {share: gains[int((1 - share) * USERS) :].sum() for share in SHARES}
    added = {share: served[share] - share * gains.sum() for share in SHARES}
    best = max(served, key=served.__getitem__)
    assert chosen.share == best != max(added, key=added.__getitem__)
    assert (chosen.small, chosen.large) == (ladder.small, ladder.large)
