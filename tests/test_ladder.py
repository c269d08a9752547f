"""Which two routes, and for which share of the users: hand-made users whose best ladder is known."""

from __future__ import annotations

import numpy as np
import pytest

from canet_mobile.train.gains import Judged
from canet_mobile.train.ladder import SHARES, choose_ladder, choose_share, escalated, order_of

USERS = 1000
COSTS = np.array([1.0, 2.0, 3.0, 4.0])


def judged(actual: np.ndarray, *, gain: np.ndarray | None = None, routes=(0, 1, 3)) -> Judged:
    """Candidates whose actual NDCG@10 is given; ``gain`` [n]: what each step up should bring."""
    n = actual.shape[1]
    rising = np.linspace(0, 1, n) if gain is None else gain
    expected = np.arange(len(routes))[:, None] * rising
    return Judged(routes, expected, np.tile(np.linspace(1, 0, n), (len(routes), 1)), actual)


def users(*values: float) -> np.ndarray:
    """NDCG@10 of each candidate, [c, n], the same for every user."""
    return np.tile(np.array(values)[:, None], USERS)


@pytest.mark.parametrize("allowed", [1.8, 2.0, 2.6, 3.2])
def test_the_average_cost_keeps_to_what_is_allowed(allowed: float) -> None:
    # Every user is better off on the largest route: as many go there as the budget pays for.
    ladder, taken = choose_ladder(judged(users(0.1, 0.101, 0.9)), COSTS, allowed, "gain")
    assert (ladder.small, ladder.large) == (0, 3) and ladder.budget_met
    assert ladder.cost == COSTS[taken].mean() <= allowed
    assert ladder.share == pytest.approx((allowed - 1) / 3) and allowed - ladder.cost < 3 / USERS + 1e-9
    assert set(taken) == {0, 3} and (taken == 3).mean() == pytest.approx(ladder.share, abs=2 / USERS)


def test_the_users_with_the_highest_order_are_escalated() -> None:
    gain = np.random.default_rng(1).standard_normal(USERS)
    actual = np.stack([np.zeros(USERS), np.zeros(USERS), np.ones(USERS)])
    ladder, taken = choose_ladder(judged(actual, gain=gain), COSTS, 2.0, "gain")
    assert gain[taken == ladder.large].min() > gain[taken == ladder.small].max()
    ladder, taken = choose_ladder(judged(actual, gain=gain), COSTS, 2.0, "entropy")
    assert (taken[: USERS // 4] == ladder.large).all(), (
        "the small route is the most unsure of the first users"
    )
    assert (taken[USERS // 2 :] == ladder.small).all()


def test_order_is_the_gain_of_the_pair_or_the_doubt_of_its_small_route() -> None:
    found = Judged(
        (0, 3), np.array([[0.2, 0.5], [0.3, 0.4]]), np.array([[7.0, 8.0], [1.0, 2.0]]), np.zeros((2, 2))
    )
    assert order_of(found, "gain", 0, 1) == pytest.approx([0.1, -0.1])
    assert order_of(found, "entropy", 0, 1).tolist() == [7.0, 8.0]


def test_escalated_takes_the_highest_share() -> None:
    order = np.random.default_rng(0).permutation(100).astype(float)
    for share in (0.2, 0.35, 0.8):
        up = escalated(order, share)
        assert up.sum() == round(100 * share) and order[up].min() > order[~up].max()
    assert not escalated(np.zeros(10), 0.5).any(), "nobody is before anybody else"


def test_most_limits_the_share() -> None:
    everybody = judged(users(0.0, 0.0, 1.0))
    assert choose_ladder(everybody, COSTS, 4.0, "gain", most=0.4)[0].share == pytest.approx(0.4)
    assert choose_ladder(everybody, COSTS, 4.0, "gain", most=0.05)[0].share == pytest.approx(0.05)


def test_among_equals_the_cheapest_ladder_is_taken() -> None:
    # Nothing distinguishes the routes, so nothing is paid for beyond the least share on the cheapest step.
    ladder, _ = choose_ladder(judged(users(0.3, 0.3, 0.3)), COSTS, 4.0, "gain")
    assert (ladder.small, ladder.large, ladder.share) == (0, 1, SHARES[0])


def test_another_pair_needs_more_than_one_standard_error() -> None:
    # 1 -> 3 is better than 0 -> 3 by its mean; the lead comes from users who stay below.
    stay = 4 * USERS // 5
    lead = 0.3 * np.random.default_rng(3).standard_normal(stay)
    lead -= lead.mean()
    error = lead.std(ddof=1) * np.sqrt(stay) / USERS  # of the mean over all users; the others are on route 3
    for distance, small in ((0.7, 0), (1.3, 1)):
        actual = users(0.20, 0.20, 0.50)
        actual[1, :stay] += lead + distance * error * USERS / stay
        ladder, _ = choose_ladder(judged(actual), COSTS, 4.0, "gain", most=0.2)
        assert (ladder.small, ladder.large) == (small, 3), distance


def test_a_budget_below_everything_takes_the_cheapest_ladder_and_says_so() -> None:
    ladder, taken = choose_ladder(judged(users(0.1, 0.5, 0.9)), COSTS, 0.5, "gain")
    assert (ladder.small, ladder.large, ladder.share) == (0, 1, SHARES[0])
    assert not ladder.budget_met and ladder.cost == COSTS[taken].mean() > 0.5


def test_the_share_follows_the_order_that_the_router_really_has() -> None:
    # The last half of the users gain from the large route, the first half lose.
    actual = np.full((2, USERS), 0.5)
    actual[1] += np.where(np.arange(USERS) < USERS // 2, -0.3, 0.3)
    found = judged(actual, routes=(0, 3))
    ladder, _ = choose_ladder(found, COSTS, 4.0, "gain")
    assert ladder.share == 0.5
    good = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 4.0)
    assert good.share == 0.5 and good.ndcg10 == pytest.approx(0.65)
    wrong = choose_share(found, ladder, -np.arange(USERS) / USERS, COSTS, 4.0, most=0.8)
    assert (wrong.small, wrong.large) == (0, 3) and wrong.ndcg10 == pytest.approx(0.44)
    tight = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 1.9)
    assert tight.share == pytest.approx(0.3) and tight.cost <= 1.9 and tight.budget_met
    missed = choose_share(found, ladder, np.arange(USERS) / USERS, COSTS, 1.1)
    assert missed.share == SHARES[0] and not missed.budget_met
