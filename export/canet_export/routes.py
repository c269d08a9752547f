"""Which submodels a package holds: those that its router takes, or those that cost no more than a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canet_mobile.data.split import HeldOut
from canet_mobile.errors import UsageError
from canet_mobile.model.canet import Canet
from canet_mobile.model.costs import route_costs
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.model.space import Route
from canet_mobile.replay.reference import routes_at

LEAST_SHARE = 0.01  # of the validation users: what no operating point gives to more is left out


@dataclass(frozen=True)
class InUse:
    """The routes that a router needs, and whom they do not suffice.

    Args:
        routes: in ascending id.
        moved: of every operating point in order, the share of the users whose route is not among them; the
            restricted router gives them the best of ``routes``.
    """

    routes: tuple[Route, ...]
    moved: tuple[float, ...]


def routes_in_use(canet: Canet, queries: HeldOut) -> InUse:
    """What ``--routes auto`` exports; of a plain SASRec its one route.

    Each route that some operating point gives to at least 1 % of the users, and every one that the balanced
    point gives to anybody: there the package routes as the run does.

    Args:
        canet: as trained.
        queries: validation users.
    """
    space = canet.space
    if canet.router is None:
        return InUse(space.routes, (0.0,) * len(POINTS))
    seqs = queries.inputs(slice(None), canet.supernet.config.length)
    taken = [np.bincount(routes_at(canet, seqs, point), minlength=len(space)) for point in range(len(POINTS))]
    shares = np.stack(taken) / len(queries)
    kept = (shares >= LEAST_SHARE).any(0) | (shares[BALANCED] > 0)
    routes = tuple(route for route, is_kept in zip(space, kept, strict=True) if is_kept)
    return InUse(routes, tuple(shares[:, ~kept].sum(1).tolist()))


def routes_within(canet: Canet, max_mflops: float) -> tuple[Route, ...]:
    """The routes that cost at most ``max_mflops`` by the paper's count.

    Raises:
        UsageError: there is none; says what the cheapest costs.
    """
    config = canet.supernet.config
    costs = route_costs(config.items, config.length, canet.space, in_projection=config.in_projection)
    within = tuple(canet.space.routes[row["id"]] for row in costs if row["paper_mflops"] <= max_mflops)
    if not within:
        least = min(costs, key=lambda row: row["paper_mflops"])
        raise UsageError(
            f"--max-mflops {max_mflops:g}: no route is that cheap",
            fix=f"at least {least['paper_mflops']:.3f} ({least['entry']})",
        )
    return within
