"""What each operating point of a trained model gives and costs on a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate import routing
from canet_mobile.evaluate.scoring import Ints, Progress, TargetRanks, rank_targets, route_users
from canet_mobile.evaluate.spent import Costs
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED, POINTS


def operating_points(
    canet: Canet,
    queries: HeldOut,
    balanced: tuple[Ints, TargetRanks],
    every: TargetRanks | None,
    spent: Costs,
    stage: Callable[[str], Progress],
) -> list[dict[str, Any]]:
    """Accuracy and cost of every operating point, in order of their ids.

    Args:
        canet: with a router, in eval mode.
        queries: the split.
        balanced: route ids [n] and ranks [n] at the balanced point, which are known already.
        every: ranks of every route [routes, n], from which the others are taken; without it the submodels
            run again for each point that routes otherwise.
        spent: costs of the routes.
        stage: makes a progress counter for a ranking of this name.
    """
    rows = []
    for point, name in enumerate(POINTS):
        ids = balanced[0] if point == BALANCED else route_users(canet, queries, point)
        if np.array_equal(ids, balanced[0]):
            ranks = balanced[1]
        elif every is not None:
            ranks = every[ids, np.arange(len(ids))]
        else:
            ranks = rank_targets(canet.supernet, queries, ids, stage(f"ranking at {name}"))
        rows.append({"id": point, "name": name} | _costs(spent, ids) | ranks.summaries())
    return rows


def _costs(spent: Costs, ids: Ints) -> dict[str, Any]:
    paper, executed = spent.average(ids)
    counts = routing.histogram(ids, len(spent.rows))
    return {
        "paper_mflops": paper,
        "executed_mflops": executed,
        "share_of_full": round(paper / spent.full_paper, 4),
        "histogram": counts.tolist(),
        "routes_used": int((counts > 0).sum()),
        "largest_share": float(counts.max() / counts.sum()),
    }
