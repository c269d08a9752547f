"""What choosing routes buys beside random routing and the best fixed choice, in an evaluation's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from canet_mobile.evaluate import routing
from canet_mobile.evaluate.metrics import METRICS, Ranks, Values, metric
from canet_mobile.evaluate.scoring import PROTOCOLS, TargetRanks
from canet_mobile.evaluate.spent import Costs

CHOSEN_BY = "ndcg@10"
REFERENCES = ("random", "best_fixed")  # keys of an evaluation's `routing`, in this order below
Gains = dict[str, dict[str, Values]]  # reference -> protocol -> [n] float64


def against_references(
    route_ids: routing.Ints,
    routed: TargetRanks,
    every: TargetRanks | None,
    chooser: TargetRanks | None,
    spent: Costs,
) -> tuple[dict[str, Any], Gains]:
    """What the router did beside what could be done without it, and what each user gains by it.

    Args:
        route_ids: the router's choice, [n].
        routed: ranks under that choice, [n].
        every: ranks under every route, [routes, n]; None leaves the references out.
        chooser: the same of the users on whom the fixed choice is chosen, [routes, m].
        spent: what routes cost.

    Returns:
        ``routing`` of an evaluation's document, and the gains over both references, empty without them.
    """
    counts = routing.histogram(route_ids, len(spent.rows))
    result: dict[str, Any] = {
        "histogram": counts.tolist(),
        "routes_used": int((counts > 0).sum()),
        "largest_share": float(counts.max() / counts.sum()),
        "normalised_entropy": routing.normalised_entropy(counts),
        "chosen_by": CHOSEN_BY,
        "random": None,
        "best_fixed": None,
    }
    gains: Gains = {}
    if every is not None and chooser is not None:
        budget = spent.average(route_ids)[0]
        result["random"], result["best_fixed"] = {}, {}
        gains = {name: {} for name in REFERENCES}
        for protocol in PROTOCOLS:
            own, table = routed.under(protocol), every.under(protocol)
            values = {name: metric(table, name) for name in METRICS}
            drawn = {name: routing.random_routing(per_route, counts) for name, per_route in values.items()}
            result["random"][protocol] = _means(drawn) | {"difference": gaps(own, drawn.__getitem__)}
            quality = metric(chooser.under(protocol), CHOSEN_BY).mean(1)
            mixture = routing.best_fixed(spent.column("paper_mflops"), quality, budget)
            fixed = {name: mixture.expected(per_route) for name, per_route in values.items()}
            result["best_fixed"][protocol] = _fixed_choice(mixture, quality, spent) | {
                **_means(fixed),
                "difference": gaps(own, fixed.__getitem__),
            }
            for name, reference in zip(REFERENCES, (drawn, fixed), strict=True):
                gains[name][protocol] = metric(own, CHOSEN_BY) - reference[CHOSEN_BY]
    return result, gains


def _fixed_choice(mixture: routing.Mixture, quality: Values, spent: Costs) -> dict[str, Any]:
    """The routes of a fixed choice, what it costs, and what validation says of it."""
    return {
        "routes": [
            {"id": route, "entry": spent.rows[route]["entry"], "weight": weight}
            for route, weight in mixture.weights().items()
        ],
        "paper_mflops": round(float(mixture.expected(spent.column("paper_mflops"))), 3),
        "validation": float(mixture.expected(quality)),
    }


def gaps(first: Ranks, second: Callable[[str], Values]) -> dict[str, dict[str, float]]:
    """Paired difference of every metric: of ranks [n] minus the named metric's other values [n]."""
    return {name: routing.paired(metric(first, name), second(name)) for name in METRICS}


def _means(values: dict[str, Values]) -> dict[str, float]:
    return {name: float(per_user.mean()) for name, per_user in values.items()}
