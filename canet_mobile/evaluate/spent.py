"""What the requests of a judged model cost on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.metrics import Values
from canet_mobile.evaluate.scoring import Ints, request_mflops
from canet_mobile.model import costs
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Recommender


@dataclass(frozen=True)
class Costs:
    """Costs of a model's routes and router, MFLOPs."""

    rows: list[dict[str, Any]]
    router_paper: float
    router_executed: float
    full_paper: float
    full_executed: float

    @classmethod
    def of(cls, canet: Canet) -> Costs:
        """Costs of a model's routes and router."""
        config, space = canet.supernet.config, canet.space
        plain = canet.router is None
        size = config.items, config.length
        return cls(
            rows=costs.route_costs(*size, space, in_projection=config.in_projection),
            router_paper=0.0 if plain else costs.router_paper_mflops(config.length, len(space)),
            router_executed=0.0 if plain else costs.router_executed_mflops(config.length, len(space)),
            full_paper=costs.sasrec_paper_mflops(*size),
            full_executed=costs.sasrec_executed_mflops(*size),
        )

    def column(self, name: str) -> Values:
        """One figure of every route, [routes]."""
        return np.array([row[name] for row in self.rows], np.float64)

    def average(self, route_ids: Ints) -> tuple[float, float]:
        """Average paper and executed MFLOPs of a request, router included."""
        paper = self.column("paper_mflops")[route_ids].mean() + self.router_paper
        executed = self.column("executed_mflops")[route_ids].mean() + self.router_executed
        return round(float(paper), 3), round(float(executed), 3)

    def summary(self, route_ids: Ints) -> dict[str, float]:
        """Costs of an average request, as evaluation documents hold them."""
        paper, executed = self.average(route_ids)
        return {
            "paper_mflops": paper,
            "executed_mflops": executed,
            "router_paper_mflops": self.router_paper,
            "router_executed_mflops": self.router_executed,
            "sasrec_full_paper_mflops": self.full_paper,
            "sasrec_full_executed_mflops": self.full_executed,
            "paper_share_of_sasrec_full": round(paper / self.full_paper, 4),
            "executed_share_of_sasrec_full": round(executed / self.full_executed, 4),
        }


def method_costs(model: Recommender, queries: HeldOut) -> dict[str, float | None]:
    """Costs of a compared method's average request; it has no exported graph to count products in."""
    size = model.items, model.length
    full = costs.sasrec_paper_mflops(*size)
    paper = round(float(request_mflops(model, queries).mean()), 3)
    return {
        "paper_mflops": paper,
        "executed_mflops": None,
        "router_paper_mflops": 0.0,
        "router_executed_mflops": 0.0,
        "sasrec_full_paper_mflops": full,
        "sasrec_full_executed_mflops": costs.sasrec_executed_mflops(*size),
        "paper_share_of_sasrec_full": round(paper / full, 4),
        "executed_share_of_sasrec_full": None,
    }
