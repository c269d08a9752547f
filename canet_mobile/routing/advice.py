"""Whether to ship the router, by validation users whose targets chose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import HeldOut, evenly_spaced, held_out
from canet_mobile.evaluate.metrics import Values, ndcg
from canet_mobile.evaluate.routing import TOO_FEW, histogram, is_sure, paired, pays, random_routing
from canet_mobile.evaluate.scoring import rank_targets, route_users
from canet_mobile.model.canet import Canet
from canet_mobile.run.config import TrainConfig

CHOOSING_USERS, OTHER_USERS = 10_000, 40_000
AGAINST = ("against_random", "against_fixed")


def divide_users(dataset: Dataset) -> tuple[HeldOut, HeldOut]:
    """Validation histories of two halves of the users.

    The targets of the first, :data:`CHOOSING_USERS` at most, choose the ladder and set the operating points.
    The second, :data:`OTHER_USERS` at most, supply labels without their targets, which are thereby free to
    say what came of it.

    Args:
        dataset: with two histories or more; of a single one both halves are that one.
    """
    n = dataset.num_histories
    choosing = held_out(dataset, "validation", limit=max(1, min(CHOOSING_USERS, n // 2)))
    everybody = held_out(dataset, "validation")
    others = np.setdiff1d(everybody.users, choosing.users)
    if not len(others):
        return choosing, choosing
    others = evenly_spaced(others, OTHER_USERS)
    return choosing, HeldOut(everybody.items, others, everybody.starts[others], everybody.ends[others])


def advise(canet: Canet, config: TrainConfig, others: HeldOut, fixed: str) -> dict[str, Any]:
    """The router at its balanced point against chance, and against one route for everybody.

    Args:
        canet: the finished model.
        config: for its seen protocol.
        others: validation queries whose targets chose nothing.
        fixed: entry of the best single route of no more cost, chosen on other users.

    Returns:
        ``fixed``, ``users``, and the paired differences ``against_random`` and ``against_fixed`` in NDCG@10.
        What follows from them is told by :func:`ships_router`, by the rule of the day.
    """
    taken, space = route_users(canet, others), canet.space
    fixed_id = space.id_of(space.named(fixed))
    per_route = np.zeros((len(space), len(others)))
    for route_id in {*taken.tolist(), fixed_id}:
        per_route[route_id] = _served(canet, config, others, route_id)
    routed = per_route[taken, np.arange(len(others))]
    blind = random_routing(per_route, histogram(taken, len(space)))
    return {
        "fixed": fixed,
        "users": len(others),
        "against_random": paired(routed, blind),
        "against_fixed": paired(routed, per_route[fixed_id]),
    }


def ships_router(found: Mapping[str, Any]) -> bool:
    """Whether the router is to be shipped, from what :func:`advise` returned."""
    return pays(found["users"], *(found[name] for name in AGAINST))


def _served(canet: Canet, config: TrainConfig, queries: HeldOut, route_id: int) -> Values:
    """NDCG@10 of users who all take one route, [n]."""
    ids = np.full(len(queries), route_id)
    return ndcg(rank_targets(canet.supernet, queries, ids).under(config.seen), 10)


def sentence(found: Mapping[str, Any]) -> str:
    """What to ship, from what :func:`advise` returned."""
    figures = (
        f"on {found['users']:,} validation users that chose nothing {_signed(found['against_random'])} "
        f"NDCG@10 against random routing with the same histogram, {_signed(found['against_fixed'])} against "
        f"{found['fixed']} for everybody, the best single route of no more cost"
    )
    if ships_router(found):
        return f"ship the router: {figures}"
    if all(is_sure(found[name]) for name in AGAINST):
        figures += f"; {TOO_FEW}"
    return (
        f"routing is not seen to pay here, ship {found['fixed']} for everybody "
        f"(export --route {found['fixed']}): {figures}"
    )


def _signed(gap: Mapping[str, float]) -> str:
    return f"{gap['value']:+.4f} ± {gap['se']:.4f}"
