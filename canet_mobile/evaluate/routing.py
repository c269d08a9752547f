"""Does choosing a route per user buy anything? The references that answer it (paper IV-C, done per user).

Inputs are metrics per route and user, [routes, n] float64, so that every difference is paired: users are the
same on both sides and the standard error is that of the mean difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_mobile.evaluate.metrics import Values, standard_error

Ints = NDArray[np.int64]


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
    fitting = np.flatnonzero(costs <= budget)
    if not len(fitting):
        cheapest = int(costs.argmin())
        return Mixture(cheapest, cheapest, 0.0)
    best = int(fitting[quality[fitting].argmax()])
    mixture, found = Mixture(best, best, 0.0), quality[best]
    for dear in np.flatnonzero(costs > budget):
        shares = (budget - costs[fitting]) / (costs[dear] - costs[fitting])
        values = (1 - shares) * quality[fitting] + shares * quality[dear]
        if values.max() > found:
            number = int(values.argmax())
            mixture = Mixture(int(fitting[number]), int(dear), float(shares[number]))
            found = values[number]
    return mixture


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


def is_better(gap: dict[str, float], errors: float = 2.0) -> bool:
    """Whether a paired difference is above zero by more than so many standard errors."""
    return gap["value"] > errors * gap["se"] and gap["value"] > 0


def is_worse(gap: dict[str, float]) -> bool:
    """Whether a paired difference is below zero by more than two standard errors."""
    return is_better({"value": -gap["value"], "se": gap["se"]})
