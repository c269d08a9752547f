"""Two routes and the share of users who get the larger one: chosen on validation, within the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_mobile.evaluate.metrics import standard_error
from canet_mobile.train.gains import Judged, Values

# Shares of users on the larger route that are tried. With fewer than a quarter of them on either side there
# is little to route: a fixed route serves as well.
SHARES = (0.25, 0.35, 0.5, 0.65, 0.75)
CLOSE = 0.25  # standard errors of NDCG@10 that are not paid for

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ladder:
    """Which users leave the small route, and for which.

    Args:
        small, large: route ids.
        share: share of users escalated to ``large``.
        ndcg10: mean validation NDCG@10 of the users each on their route.
        cost: average cost of the routes taken, without the router, in the unit of the costs.
        budget_met: whether the budget leaves room for the least share of escalated users.
    """

    small: int
    large: int
    share: float
    ndcg10: float
    cost: float
    budget_met: bool


def order_of(judged: Judged, label: str, small: int, large: int) -> Values:
    """Who is escalated first, [n]: positions ``small`` and ``large`` in ``judged``; the highest first.

    Args:
        judged: candidates on held-out users.
        label: ``gain``: how much better the larger route's list is expected to be; ``entropy``: how unsure
            the small route is.
        small, large: positions in ``judged.routes``.
    """
    return judged.expected[large] - judged.expected[small] if label == "gain" else judged.entropy[small]


def escalated(order: Values, share: float) -> NDArray[np.bool_]:
    """The ``share`` of users with the highest values, rounded down, fewer where values tie: [n] bool."""
    count = int(share * len(order) + 1e-9)  # 0.35 x 20 is a little less than 7
    return order > np.sort(order)[-1 - count] if count < len(order) else np.ones(len(order), np.bool_)


@dataclass(frozen=True)
class _Tried:
    """A ladder with the route id and the NDCG@10 of every validation user, [n] each."""

    ladder: Ladder
    taken: Ints
    routed: Values


def choose_ladder(
    judged: Judged, costs: Values, allowed: float, label: str, most: float = 1.0
) -> tuple[Ladder, Ints]:
    """The ladder that serves validation users best within the budget, by NDCG@10.

    Every pair of candidates is tried with every share that the budget leaves for it. Ladders that start at
    the cheapest candidate come first, because their routes differ most, and so there is most for a router to
    know; another pair is taken where it is better by more than one standard error.

    Args:
        judged: candidates on validation users, and how good each was there.
        costs: of every route of the space, [routes], in one unit.
        allowed: average cost that the routes of a user may have, in that unit.
        label: how users are ordered, see :func:`order_of`.
        most: the largest share of users that may be escalated.

    Returns:
        The ladder, and the route id of every user [n].
    """
    tried = []
    for small, cheap in enumerate(judged.routes):
        for large, dear in enumerate(judged.routes):
            if costs[dear] > costs[cheap]:
                order = order_of(judged, label, small, large)
                tried += _ladders(judged, (small, large), order, costs, allowed, most)
    within = [row for row in tried if row.ladder.budget_met]
    if not within:  # the budget lies below everything: as near to it as can be
        nearest = min(tried, key=lambda row: row.ladder.cost)
        return nearest.ladder, nearest.taken
    cheapest = min(judged.routes, key=lambda route_id: float(costs[route_id]))
    usual = [row for row in within if row.ladder.small == cheapest]
    chosen = _cheapest_of_the_best(within, tolerance=0.0)
    if usual:
        best = _cheapest_of_the_best(usual, CLOSE)
        gap = chosen.routed - best.routed
        chosen = best if gap.mean() <= standard_error(gap) else _cheapest_of_the_best(within, CLOSE)
    return chosen.ladder, chosen.taken


def choose_share(
    judged: Judged, ladder: Ladder, order: Values, costs: Values, allowed: float, most: float = 1.0
) -> Ladder:
    """The same two routes with the share of users that serves best in an order that is not perfect.

    Args:
        judged: as for :func:`choose_ladder`, and so are ``costs``, ``allowed`` and ``most``.
        ladder: its routes.
        order: the fitted router's scores of the validation users, [n].
    """
    pair = (judged.routes.index(ladder.small), judged.routes.index(ladder.large))
    tried = _ladders(judged, pair, order, costs, allowed, most)
    within = [row for row in tried if row.ladder.budget_met]
    return _cheapest_of_the_best(within or tried[:1], CLOSE).ladder


def _ladders(
    judged: Judged, pair: tuple[int, int], order: Values, costs: Values, allowed: float, most: float
) -> list[_Tried]:
    """One ladder per share within the budget, or the one with the least share where there is none."""
    small, large = (judged.routes[position] for position in pair)
    affordable = min(1.0, (allowed - float(costs[small])) / float(costs[large] - costs[small]))
    limit = max(min(affordable, most), min(SHARES[0], most))
    found = []
    for share in sorted({*(share for share in SHARES if share < limit), limit}):
        up = escalated(order, share)
        routed = np.where(up, judged.actual[pair[1]], judged.actual[pair[0]])
        taken = np.where(up, large, small)
        spent, met = float(costs[taken].mean()), affordable >= limit
        found.append(_Tried(Ladder(small, large, share, float(routed.mean()), spent, met), taken, routed))
    return found


def _cheapest_of_the_best(tried: list[_Tried], tolerance: float) -> _Tried:
    """The cheapest that lies within ``tolerance`` standard errors of the paired difference to the best."""
    best = max(tried, key=lambda row: row.ladder.ndcg10).routed
    good = [
        row for row in tried if (best - row.routed).mean() <= tolerance * standard_error(best - row.routed)
    ]
    return min(good, key=lambda row: row.ladder.cost)
