"""Does choosing a route per user buy anything? References and a rule that answer it (paper IV-C, per user).

Inputs are metrics per route and user, [routes, n] float64, so that every difference is paired: users are the
same on both sides and the standard error is that of the mean difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_mobile.evaluate.metrics import Values, standard_error
from canet_mobile.ties import at_most, best, exceeds

Ints = NDArray[np.int64]

# The rule for "routing pays", one for `train`, `evaluate` and `compare`: the gain over random routing and the
# gain over the best fixed choice each exceed so many standard errors, of so many users or more. It is not
# fitted to data: no set's figures, least of all its test users', are a reason to change it.
SURE = 3.0
# Where routing gains, it gains a few per cent; what fewer users say of so little is mostly luck.
FEWEST_USERS = 1_000
TOO_FEW = f"fewer than {FEWEST_USERS:,} users cannot tell its gains from luck"


@dataclass(frozen=True)
class Mixture:
    """Users given ``dear`` with probability ``share``, else ``cheap``; a fixed route when share is 0 or 1."""

    cheap: int
    dear: int
    share: float

    def weights(self) -> dict[int, float]:
        """Route id -> probability, without the zeros."""
        both = {self.cheap: 1 - self.share}
        both[self.dear] = both.get(self.dear, 0.0) + self.share
        return {route: weight for route, weight in both.items() if weight > 0}

    def expected(self, per_route: Values) -> Values:
        """Expected value per user, [n], of a metric [routes, n]; or the mean, from [routes]."""
        return (1 - self.share) * per_route[self.cheap] + self.share * per_route[self.dear]


def best_fixed(costs: Values, quality: Values, budget: float) -> Mixture:
    """The best route, or mixture of two, whose average cost does not exceed a budget.

    Args:
        costs: cost of each route, [routes].
        quality: mean metric of each route on VALIDATION, [routes].
        budget: average cost allowed; when no route fits, the cheapest is returned.

    Returns:
        The mixture of the highest quality; a single route on ties, the lowest id first.
    """
    fits = [at_most(cost, budget) for cost in costs]
    if not any(fits):
        cheapest = best(range(len(costs)), lambda route: -costs[route])
        return Mixture(cheapest, cheapest, 0.0)
    fitting = [route for route, fit in enumerate(fits) if fit]
    tried = [Mixture(route, route, 0.0) for route in fitting]
    for dear in (route for route, fit in enumerate(fits) if not fit):
        for cheap in fitting:  # which may itself cost the budget, a little more by rounding
            share = max(0.0, budget - costs[cheap]) / (costs[dear] - costs[cheap])
            tried.append(Mixture(cheap, dear, float(share)))
    return best(tried, lambda mixture: float(mixture.expected(quality)))


def histogram(route_ids: Ints, routes: int) -> Ints:
    """Users per route, [routes] int64."""
    return np.bincount(route_ids, minlength=routes)


def random_routing(per_route: Values, counts: Ints) -> Values:
    """Exact expectation per user, [n], when routes are drawn from the histogram, blind to the user."""
    return (counts / counts.sum()) @ per_route


def normalised_entropy(counts: Ints) -> float:
    """Entropy of the histogram over log(routes): 1 is uniform, 0 is one route for everybody."""
    shares = counts[counts > 0] / counts.sum()
    if len(counts) < 2 or len(shares) < 2:
        return 0.0
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


def paired(first: Values, second: Values) -> dict[str, float]:
    """Mean of ``first - second`` per user and its standard error: ``{"value", "se"}``."""
    gap = first - second
    return {"value": float(gap.mean()) if len(gap) else 0.0, "se": standard_error(gap)}


def is_better(gap: Mapping[str, float], errors: float = 2.0) -> bool:
    """Whether a paired difference is above zero by more than so many standard errors."""
    return exceeds(gap["value"], max(0.0, errors * gap["se"]))


def is_worse(gap: Mapping[str, float], errors: float = 2.0) -> bool:
    """Whether a paired difference is below zero by more than so many standard errors."""
    return is_better({"value": -gap["value"], "se": gap["se"]}, errors)


def is_sure(gap: Mapping[str, float]) -> bool:
    """Whether what routing gains over one of its references is above zero by :data:`SURE` standard errors."""
    return is_better(gap, SURE)


def pays(users: int, against_random: Mapping[str, float], against_fixed: Mapping[str, float]) -> bool:
    """Whether the router is worth shipping: both gains :func:`is_sure`, of :data:`FEWEST_USERS` or more.

    Args:
        users: how many were asked.
        against_random: NDCG@10 gained over random routing with the router's histogram, ``{"value", "se"}``.
        against_fixed: over the best fixed choice at no more cost.
    """
    return users >= FEWEST_USERS and is_sure(against_random) and is_sure(against_fixed)
