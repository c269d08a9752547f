"""What a route costs where budgets are kept: paper MFLOPs, or milliseconds measured on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import CanetError
from canet_mobile.files import read_json
from canet_mobile.model.costs import paper_mflops, router_paper_mflops, sasrec_paper_mflops
from canet_mobile.routing.candidates import candidates
from canet_mobile.run.config import PAPER_COSTS, TrainConfig
from canet_mobile.schema import validate

Values = NDArray[np.float64]
MAKE_ONE = "canet-mobile replay PACKAGE --costs-out FILE makes one"


@dataclass(frozen=True)
class Spending:
    """Costs in one unit.

    Args:
        unit: ``paper MFLOPs``, or the measured table's, ``ms`` as a rule.
        routes: of every route, [routes] float64, without the router.
        router: of the router.
        full: what budgets are shares of: SASRec-full's paper MFLOPs, or the largest route's milliseconds.
    """

    unit: str
    routes: Values
    router: float
    full: float

    def allowed(self, budget: float) -> float:
        """What a user's route may cost on average so that, with the router, the budget is kept."""
        return budget * self.full - self.router

    def average(self, route_ids: NDArray[np.int64]) -> float:
        """Average cost of users on these routes [n], router included."""
        return float(self.routes[route_ids].mean()) + self.router


def spending_of(config: TrainConfig, items: int) -> Spending:
    """The costs that a configuration asks for.

    Raises:
        CanetError: the file of costs is not there, or does not tell what every route costs.
    """
    return _paper(config, items) if config.costs == PAPER_COSTS else _measured(config, Path(config.costs))


def _paper(config: TrainConfig, items: int) -> Spending:
    routes = np.array([paper_mflops(items, config.length, route) for route in config.space])
    router = router_paper_mflops(config.length, len(config.space))
    return Spending("paper MFLOPs", routes, router, full_mflops(config, items))


def what_costs(path: Path) -> dict[str, Any]:
    """What a table of schemas/costs_table.schema.json says of costs: unit, router, routes.

    Raises:
        CanetError: the file is not there, or is no such table.
    """
    if not path.is_file():
        raise CanetError(
            "no such table of costs",
            where=path,
            fix=MAKE_ONE,
        )
    table = read_json(path, fix=MAKE_ONE)
    validate(table, "costs_table", where=path, fix=MAKE_ONE)
    return {name: table[name] for name in ("unit", "router", "routes")}


def _measured(config: TrainConfig, path: Path) -> Spending:
    """A table that knows every route of the configuration."""
    table = what_costs(path)
    known, unit = table["routes"], table["unit"]
    missing = [route.entry for route in config.space if route.entry not in known]
    if missing:
        raise CanetError(
            f"routes tells no cost of {missing[0]} (missing: {len(missing)} of {len(config.space)} routes)",
            where=path,
            fix="export every route (--routes all), then canet-mobile replay PACKAGE --costs-out FILE",
        )
    costs = np.array([known[route.entry] for route in config.space], np.float64)
    if np.ptp(costs[candidates(config.space)]) == 0:
        raise CanetError(
            f"every route that a router could choose costs {costs[0]:g} {unit}: there is nothing to save",
            where=path,
            fix="measure again, or ship one route: canet-mobile export --route ENTRY",
        )
    largest = config.space.id_of(config.space.largest)
    return Spending(unit, costs, float(table["router"]), float(costs[largest]))


def average_mflops(config: TrainConfig, items: int, route_ids: NDArray[np.int64]) -> float:
    """Average paper MFLOPs of users on these routes; the router's own cost is included unless SASRec."""
    if config.model == "sasrec":
        return sasrec_paper_mflops(items, config.length, config.hidden[0], config.depth[0])
    return _paper(config, items).average(route_ids)


def full_mflops(config: TrainConfig, items: int) -> float:
    """Paper MFLOPs of the plain SASRec as large as the space's largest route: what budgets are shares of."""
    widest = config.space.largest
    return sasrec_paper_mflops(items, config.length, widest.hidden, widest.depth)
