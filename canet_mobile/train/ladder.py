"""Two routes, and the share of users who get the larger one: chosen on validation alone, within the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_mobile.train.gains import Judged, Values

# Shares of users on the larger route that are tried. With fewer than a fifth on either side there is little to
# route: a fixed route serves as well.
SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
CLOSE = 0.001  # relative difference of NDCG@10 that is not paid for

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ladder:
    """Which users leave the small route, and for which.

    Args:
        small, large: route ids.
        share: share of users escalated to ``large``.
        ndcg10: mean validation NDCG@10 of the users each on their route, if the router were perfect.
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
    """The ``share`` of users with the highest values: [n] bool."""
    return order > np.quantile(order, 1 - share)


def choose_ladder(
    judged: Judged, costs: Values, allowed: float, label: str, most: float = 1.0
) -> tuple[Ladder, Ints]:
    """The best ladder by validation NDCG@10, or the cheapest one that is as good but for a thousandth.

    Every pair of candidates is tried with every share that the budget leaves for it.

    Args:
        judged: candidates on validation users, and how good each was there.
        costs: of every route of the space, [routes], in one unit.
        allowed: average cost that the routes of a user may have, in that unit.
        label: how users are ordered, see :func:`order_of`.
        most: the largest share of users that may be escalated.

    Returns:
        The ladder, and the route id of every user [n].
    """
    tried: list[tuple[Ladder, Ints]] = []
    for small, large, affordable in _pairs(judged, costs, allowed):
        order = order_of(judged, label, small, large)
        limit = min(affordable, most)
        for share in sorted({*(s for s in SHARES if s <= limit), max(limit, SHARES[0])}):
            up = escalated(order, share)
            routed = np.where(up, judged.actual[large], judged.actual[small])
            taken = np.where(up, judged.routes[large], judged.routes[small])
            met = affordable >= SHARES[0]
            found = Ladder(
                judged.routes[small], judged.routes[large], share,
                float(routed.mean()), float(costs[taken].mean()), met,
            )  # fmt: skip
            tried.append((found, taken))
    if any(ladder.budget_met for ladder, _ in tried):
        tried = [row for row in tried if row[0].budget_met]
    else:  # the budget is below everything: as near to it as can be
        least = min(ladder.cost for ladder, _ in tried)
        tried = [row for row in tried if row[0].cost == least]
    best = max(ladder.ndcg10 for ladder, _ in tried)
    good = [row for row in tried if row[0].ndcg10 >= (1 - CLOSE) * best]
    ladder, taken = min(good, key=lambda row: row[0].cost)
    return ladder, taken


def _pairs(judged: Judged, costs: Values, allowed: float) -> list[tuple[int, int, float]]:
    """Positions of every cheaper and dearer candidate, and the share of users the budget gives the dearer."""
    found = []
    for small, cheap in enumerate(judged.routes):
        for large, dear in enumerate(judged.routes):
            if costs[dear] > costs[cheap]:
                share = (allowed - costs[cheap]) / (costs[dear] - costs[cheap])
                found.append((small, large, float(np.clip(share, 0.0, 1.0))))
    return found
