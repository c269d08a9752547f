"""Setting the operating points: a price on computation for each, found and measured on validation users.

At a price ``m`` a user's route is argmax of ``logit - m * cost / full``: the dearer computation is, the
cheaper the routes. A point is a price, so all points share one router, and any router can have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.metrics import ndcg, standard_error
from canet_mobile.evaluate.scoring import rank_targets
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import POINTS
from canet_mobile.routing.budget import Spending, average_mflops
from canet_mobile.routing.distil import router_logits
from canet_mobile.routing.ladder import CLOSE
from canet_mobile.run.config import TrainConfig
from canet_mobile.ties import TOLERANCE, at_most, best, exceeds

BISECTIONS = 60
STEEP = 1e3  # a price beyond which nothing changes: logits differ by some units, costs by some hundredths
BEST_STEPS = (0.25, 0.5, 0.75, 1.0)  # of the way from the balanced cost to the dearest route in use
NEVER_TAKEN = -1e3  # logits below it belong to routes that are never taken

Ints = NDArray[np.int64]
Values = NDArray[np.float64]


def routes_at(logits: Values, costs: Values, price: float) -> Ints:
    """Route ids [n] from logits [n, routes], costs [routes] as shares of the full model, and a price."""
    return (logits - price * costs).argmax(1)


def price_of(logits: Values, costs: Values, target: float) -> float:
    """A price at which the average cost is as high as it can be without exceeding ``target``.

    It lies halfway between the prices at which one user more or less would change routes: on the edge, that
    user's route would hang on the last bit of a logit, and runtimes would disagree about it.
    """
    lowest = _lowest_price(logits, costs, target)
    spent = costs[routes_at(logits, costs, lowest)].mean()
    beyond = _lowest_price(logits, costs, spent - 2 * TOLERANCE)
    return min((lowest + beyond) / 2, lowest + 1.0)


def _lowest_price(logits: Values, costs: Values, target: float) -> float:
    low, high = -STEEP, STEEP
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if exceeds(float(costs[routes_at(logits, costs, middle)].mean()), target):
            low = middle
        else:
            high = middle
    return high


def set_points(
    canet: Canet, config: TrainConfig, queries: HeldOut, spending: Spending, balanced: float | None
) -> tuple[Canet, list[dict[str, Any]]]:
    """Fill the router's operating points, and measure each on validation users.

    ``saver`` spends half of what ``balanced`` spends above the cheapest route in use; ``best`` is the
    cheapest of it and a few dearer points that is as good as the best of them but for noise.

    Args:
        canet: the supernet and its finished router.
        config: for its seen protocol.
        queries: validation queries.
        spending: what routes cost.
        balanced: average cost of the routes at ``balanced``, without the router; None leaves the router as it
            was trained.

    Returns:
        The model, and for each point its name, NDCG@10, paper MFLOPs, cost, and share of users by entry.
    """
    net, router = canet.supernet, canet.router
    assert router is not None
    costs = spending.routes / spending.full
    logits = router_logits(router, net, queries).double().numpy()
    within = costs[(logits > NEVER_TAKEN).any(0)]
    middle = 0.0 if balanced is None else price_of(logits, costs, balanced / spending.full)
    spent = float(costs[routes_at(logits, costs, middle)].mean())
    saver = price_of(logits, costs, (spent + within.min()) / 2)
    dearer = [price_of(logits, costs, spent + step * (within.max() - spent)) for step in BEST_STEPS]
    tried = (middle, *dearer)
    values = [_ndcg(canet, config, queries, routes_at(logits, costs, price)) for price in tried]
    top = best(values, lambda value: float(value.mean()))
    leads = [top - value for value in values]
    close = [at_most(float(lead.mean()), CLOSE * standard_error(lead)) for lead in leads]
    prices = torch.tensor([saver, middle, tried[close.index(True)]], dtype=torch.float64)
    with torch.no_grad():
        router.points.copy_(-(prices[:, None] * torch.from_numpy(costs)))
    return canet, [
        _describe(canet, config, queries, spending, name, routes_at(logits, costs, price))
        for name, price in zip(POINTS, prices.tolist(), strict=True)
    ]


def _ndcg(canet: Canet, config: TrainConfig, queries: HeldOut, route_ids: Ints) -> Values:
    return ndcg(rank_targets(canet.supernet, queries, route_ids).under(config.seen), 10)


def _describe(
    canet: Canet, config: TrainConfig, queries: HeldOut, spending: Spending, name: str, route_ids: Ints
) -> dict[str, Any]:
    shares = np.bincount(route_ids, minlength=len(canet.space)) / len(route_ids)
    return {
        "name": name,
        "ndcg10": float(_ndcg(canet, config, queries, route_ids).mean()),
        "mflops": average_mflops(config, canet.supernet.config.items, route_ids),
        "cost": {"value": spending.average(route_ids), "unit": spending.unit},
        "routes": {
            route.entry: float(share) for route, share in zip(canet.space, shares, strict=True) if share
        },
    }
