"""Validation as the phone would route: argmax of the router, or the rule it will be distilled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import rank_model, rank_targets, request_mflops, route_users
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED
from canet_mobile.model.recommender import Model, Recommender
from canet_mobile.routing.budget import average_mflops, spending_of
from canet_mobile.routing.candidates import judge
from canet_mobile.routing.ladder import choose_ladder
from canet_mobile.run.config import PAPER_COSTS, TrainConfig

COLLAPSED_SHARE = 0.8
EASY_SHARE = (0.2, 0.6)


@dataclass(frozen=True)
class Validation:
    """Routed validation of one epoch.

    Args:
        ndcg10: mean NDCG@10 under the run's seen protocol.
        mflops: average paper MFLOPs of the routes taken, router included; never of sampled routes.
        routes: entry -> share of users, only routes in use; the costs in use of a compared method, if there
            are several.
        router_entropy: mean entropy of p(route | user) in nats, None without a trained router.
    """

    ndcg10: float
    mflops: float
    routes: dict[str, float]
    router_entropy: float | None

    @property
    def largest_share(self) -> float:
        """Share of users on the most used route."""
        return max(self.routes.values(), default=1.0)

    def to_json(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {**vars(self), "largest_share": self.largest_share}


def validate_routed(canet: Model, config: TrainConfig, queries: HeldOut, *, fitted: bool) -> Validation:
    """Validate with each user on the route they will get.

    Args:
        canet: in any mode; left in eval mode. A compared method has no routes but decides for itself.
        config: the run's configuration.
        queries: validation queries.
        fitted: the router is trained (recipe ``paper``, or after it was distilled). Before that, users are
            ordered by the label itself that the router will learn.
    """
    canet.eval()
    if not isinstance(canet, Canet):
        return _validate_method(canet, config, queries)
    net, space = canet.supernet, canet.space
    entropy: float | None = None
    if canet.router is None or fitted:
        route_ids = route_users(canet, queries)
        ndcg10 = float(ndcg(rank_targets(net, queries, route_ids).under(config.seen), 10).mean())
        if canet.router is not None:
            entropy = _router_entropy(canet, queries)
    else:
        spending = spending_of(config, net.config.items)
        ladder, route_ids = choose_ladder(
            judge(net, queries, config.seen),
            spending.routes,
            spending.allowed(config.budget),
            config.router_label,
            config.escalate,
            gain=False,  # which epoch is kept is a matter of how good its routes are
        )
        ndcg10 = ladder.ndcg10
    counts = np.bincount(route_ids, minlength=len(space)) / len(queries)
    routes = {route.entry: float(share) for route, share in zip(space, counts, strict=True) if share}
    return Validation(ndcg10, average_mflops(config, net.config.items, route_ids), routes, entropy)


def _validate_method(model: Recommender, config: TrainConfig, queries: HeldOut) -> Validation:
    ndcg10 = float(ndcg(rank_model(model, queries).under(config.seen), 10).mean())
    costs = request_mflops(model, queries)
    values, counts = np.unique(costs, return_counts=True)
    shares = zip(values, counts / len(costs), strict=True)
    routes = {f"{value:.3f} MFLOPs": float(share) for value, share in shares} if len(values) > 1 else {}
    return Validation(ndcg10, round(float(costs.mean()), 3), routes, None)


@torch.no_grad()
def _router_entropy(canet: Canet, queries: HeldOut) -> float:
    assert canet.router is not None
    length, device = canet.supernet.config.length, canet.supernet.classifier_bias.device
    total = 0.0
    for rows in np.array_split(np.arange(len(queries)), -(-len(queries) // 512)):
        seq = torch.from_numpy(queries.inputs(rows, length)).to(device)
        log_p = canet.router(seq, canet.supernet.item_table).float().log_softmax(-1)
        total -= float((log_p.exp() * log_p).sum())
    return total / len(queries)


def budget_warning(routing: dict[str, Any], config: TrainConfig) -> list[str]:
    """What to say when even the smallest route and a few escalated users cost more than the budget."""
    if routing.get("budget_met", True):
        return []
    cost = routing["operating_points"][BALANCED]["cost"]
    whole = "SASRec-full" if config.costs == PAPER_COSTS else "the largest route"
    return [
        f"the budget {config.budget:g} of {whole} cannot be met: {routing['small']} with "
        f"{routing['escalated_share']:.0%} of users on {routing['large']} costs "
        f"{cost['value']:.3g} {cost['unit']}, router included; raise --budget, or train a smaller smallest "
        "route (--set hidden=32,64,128)"
    ]


def warnings_of(found: Validation, config: TrainConfig, easy: float | None) -> list[str]:
    """What a user should know about this epoch's routing; empty when all is well."""
    notes = []
    # Where the router is distilled, its histogram is what budget and escalate ask for.
    if config.recipe == "paper" and config.model == "canet" and found.largest_share > COLLAPSED_SHARE:
        route = max(found.routes, key=lambda entry: found.routes[entry])
        notes.append(
            f"router collapse: {found.largest_share:.0%} of users take {route}; "
            "raise --set lambda_uniform, or use --set recipe=sandwich"
        )
    if easy is not None and not EASY_SHARE[0] <= easy <= EASY_SHARE[1]:
        direction = "lower" if easy > EASY_SHARE[1] else "raise"
        notes.append(
            f"{easy:.0%} of users are easy, outside {EASY_SHARE[0]:.0%}-{EASY_SHARE[1]:.0%}: the guide pulls "
            f"everybody one way; {direction} --set guide_k={config.guide_k}"
        )
    return notes
