"""Two routes, who gets the larger one first, and what share of the users: chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_mobile.evaluate.metrics import standard_error
from canet_mobile.routing.candidates import Judged, Values
from canet_mobile.ties import above, at_most, best, exceeds

# Shares of users on the larger route that are tried. With fewer than a quarter of them on either side there
# is little to route: a fixed route serves as well.
SHARES = (0.25, 0.35, 0.5, 0.65, 0.75)
CLOSE = 0.25  # standard errors of NDCG@10 that are not paid for
ALIKE = 1.0  # standard error within which ladders are told apart by what choosing users gains
# Who is escalated first: users of whom the small route is unsure, or those of whom it is sure.
FIRST = ("entropy", "confidence")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ladder:
    """Which users leave the small route, and for which.

    Args:
        small, large: route ids.
        first: one of :data:`FIRST`: who is escalated first.
        share: share of users escalated to ``large``.
        ndcg10: mean validation NDCG@10 of the users each on their route.
        cost: average cost of the routes taken, without the router, in the unit of the costs.
        budget_met: whether the budget leaves room for the least share of escalated users.
    """

    small: int
    large: int
    first: str
    share: float
    ndcg10: float
    cost: float
    budget_met: bool


def order_of(judged: Judged, first: str, small: int) -> Values:
    """Who is escalated first, [n], the highest first, with the small route at this position of ``judged``."""
    return judged.entropy[small] if first == "entropy" else -judged.entropy[small]


def escalated(order: Values, share: float) -> NDArray[np.bool_]:
    """The ``share`` of users with the highest values, rounded down, fewer where values tie: [n] bool."""
    count = int(share * len(order) + 1e-9)  # 0.35 x 20 is a little less than 7
    return above(order, np.sort(order)[-1 - count]) if count < len(order) else np.ones(len(order), np.bool_)


@dataclass(frozen=True)
class _Limits:
    """What routes cost, [routes]; the average allowed; the largest share escalated; whether gains count."""

    costs: Values
    allowed: float
    most: float
    gain: bool = True


@dataclass(frozen=True)
class _Tried:
    """A ladder with every validation user's route id, NDCG@10 as it is read, and gain, [n] each.

    The gain is what being chosen, or not, is worth against being drawn with the chance that everybody has.
    """

    ladder: Ladder
    taken: Ints
    routed: Values
    gain: Values

    @property
    def value(self) -> float:
        return float(self.routed.mean())


def choose_ladder(
    judged: Judged,
    costs: Values,
    allowed: float,
    label: str = "auto",
    most: float = 1.0,
    gain: bool = True,
) -> tuple[Ladder, Ints]:
    """The ladder that serves validation users best within the budget, by NDCG@10.

    Every pair of candidates of which one is a submodel of the other is tried, with every share that the
    budget leaves for it, escalating the unsure or the sure users first. Which of them gain is not the same on
    all data: an unsure user may be one whom no route can help.

    How good two routes are on average, validation tells badly: that is read from the smoothed values. What
    choosing users adds to drawing them hangs only on users for whom the two routes differ: that is measured,
    and of ladders that are otherwise alike the one of the largest gain is taken.

    Args:
        judged: candidates on validation users, and how good each was there.
        costs: of every route of the space, [routes], in one unit.
        allowed: average cost that the routes of a user may have, in that unit.
        label: who is escalated first, one of :data:`FIRST`; ``auto`` tries both.
        most: the largest share of users that may be escalated.
        gain: whether what choosing users adds is measured; if not, the cheapest of the alike is taken.

    Returns:
        The ladder, and the route id of every user [n].
    """
    limits, tried = _Limits(costs, allowed, most, gain), []
    for pair in _pairs(judged, costs):
        for first in FIRST if label == "auto" else (label,):
            tried += _ladders(judged, pair, first, order_of(judged, first, pair[0]), limits)
    within = [row for row in tried if row.ladder.budget_met]
    # The budget may lie below everything: then as near to it as can be.
    chosen = _best(within, gain) if within else best(tried, lambda row: -row.ladder.cost)
    return chosen.ladder, chosen.taken


def _pairs(judged: Judged, costs: Values) -> list[tuple[int, int]]:
    """Positions in ``judged`` of a cheaper and a dearer route, the first a part of the second if any is.

    A table of measured costs may have it that no larger route is dearer; then sizes say nothing.
    """
    sizes = [vars(judged.space.routes[route_id]).values() for route_id in judged.routes]
    rising = [
        (small, large)
        for small, cheap in enumerate(judged.routes)
        for large, dear in enumerate(judged.routes)
        if costs[dear] > costs[cheap]
    ]
    nested = [
        pair for pair in rising if all(a <= b for a, b in zip(sizes[pair[0]], sizes[pair[1]], strict=True))
    ]
    return nested or rising


def choose_share(
    judged: Judged, ladder: Ladder, order: Values, costs: Values, allowed: float, most: float = 1.0
) -> Ladder:
    """The same two routes with the share of users that serves best in an order that is not perfect.

    Shares of one pair are told apart by how well they serve, of which the gain of choosing is a part. Of
    equals the cheaper one is taken.

    Args:
        judged: as for :func:`choose_ladder`, and so are ``costs``, ``allowed`` and ``most``.
        ladder: its routes.
        order: the fitted router's scores of the validation users, [n].
    """
    pair = (judged.routes.index(ladder.small), judged.routes.index(ladder.large))
    tried = _ladders(judged, pair, ladder.first, order, _Limits(costs, allowed, most))
    within = [row for row in tried if row.ladder.budget_met]
    return best(within or tried[:1], lambda row: row.value, lambda row: -row.ladder.cost).ladder


def _ladders(
    judged: Judged, pair: tuple[int, int], first: str, order: Values, limits: _Limits
) -> list[_Tried]:
    """One ladder per share within the budget, or the one with the least share where there is none."""
    small, large = (judged.routes[position] for position in pair)
    costs, most = limits.costs, limits.most
    affordable = min(1.0, (limits.allowed - float(costs[small])) / float(costs[large] - costs[small]))
    limit = max(min(affordable, most), min(SHARES[0], most))
    found = []
    for share in sorted({*(share for share in SHARES if exceeds(limit, share)), limit}):
        up = escalated(order, share)
        routed, actual = (
            np.where(up, each[pair[1]], each[pair[0]]) for each in (judged.smoothed, judged.ndcg10)
        )
        gain = np.zeros(len(up))
        if limits.gain:
            gain = _gain(judged.ndcg10, pair, up)
            routed += gain - _gain(judged.smoothed, pair, up)
        taken = np.where(up, large, small)
        spent, met = float(costs[taken].mean()), at_most(limit, affordable)
        ladder = Ladder(small, large, first, share, float(actual.mean()), spent, met)
        found.append(_Tried(ladder, taken, routed, gain))
    return found


def _gain(values: Values, pair: tuple[int, int], up: NDArray[np.bool_]) -> Values:
    """What choosing those who are ``up`` is worth, against drawing as many: [n], of values [c, n]."""
    return (up - up.mean()) * (values[pair[1]] - values[pair[0]])


def _best(tried: list[_Tried], gain: bool) -> _Tried:
    """Of the ladders that the best hardly leads: the one that gains most, or the cheapest."""
    leader = best(tried, lambda row: row.value, lambda row: -row.ladder.cost).routed
    leads = [leader - row.routed for row in tried]
    errors = ALIKE if gain else CLOSE
    alike = [
        row
        for row, lead in zip(tried, leads, strict=True)
        if at_most(float(lead.mean()), errors * standard_error(lead))
    ]
    return best(alike, lambda row: max(0.0, float(row.gain.mean())), lambda row: -row.ladder.cost)
