"""Whether to ship the router, by validation users whose targets chose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import HeldOut, evenly_spaced, held_out
from canet_mobile.evaluate.metrics import Values, ndcg
from canet_mobile.evaluate.routing import histogram, is_better, paired, random_routing
from canet_mobile.evaluate.scoring import rank_targets, route_users
from canet_mobile.model.canet import Canet
from canet_mobile.train.config import TrainConfig

CHOOSING_USERS, OTHER_USERS = 10_000, 40_000
# Standard errors that each gain must exceed. Against chance more than two have been seen where test users had
# nothing of the router, more than three where they had something (docs/training.md, "Advice").
SURE = {"against_random": 3.0, "against_fixed": 2.0}
# Routing has been seen to gain three per cent at most; what fewer users say of so little is mostly luck.
FEWEST_USERS = 1_000


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
        ``fixed``, ``users``, the paired differences ``against_random`` and ``against_fixed`` in NDCG@10, and
        whether routing :func:`pays`.
    """
    taken, space = route_users(canet, others), canet.space
    fixed_id = space.id_of(space.named(fixed))
    per_route = np.zeros((len(space), len(others)))
    for route_id in {*taken.tolist(), fixed_id}:
        per_route[route_id] = _served(canet, config, others, route_id)
    routed = per_route[taken, np.arange(len(others))]
    blind = random_routing(per_route, histogram(taken, len(space)))
    found = {
        "fixed": fixed,
        "users": len(others),
        "against_random": paired(routed, blind),
        "against_fixed": paired(routed, per_route[fixed_id]),
    }
    return {**found, "pays": pays(found)}


def pays(found: Mapping[str, Any]) -> bool:
    """Whether each gain exceeds its :data:`SURE` standard errors, of :data:`FEWEST_USERS` or more.

    Args:
        found: ``users`` and the two differences, as :func:`advise` returns them.
    """
    return found["users"] >= FEWEST_USERS and _clear(found)


def _clear(found: Mapping[str, Any]) -> bool:
    return all(is_better(found[name], errors) for name, errors in SURE.items())


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
    if pays(found):
        return f"ship the router: {figures}"
    if _clear(found):
        figures += f"; fewer than {FEWEST_USERS:,} users cannot tell its gains from luck"
    return (
        f"routing is not seen to pay here, ship {found['fixed']} for everybody "
        f"(export --route {found['fixed']}): {figures}"
    )


def _signed(gap: Mapping[str, float]) -> str:
    return f"{gap['value']:+.4f} ± {gap['se']:.4f}"
