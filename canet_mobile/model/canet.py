"""A trained recommender: the supernet and, unless it is a plain SASRec, its router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from canet_mobile.model.points import BALANCED
from canet_mobile.model.router import Router
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet


@dataclass(frozen=True)
class Canet:
    """Supernet and router, as trained together (paper III).

    Args:
        supernet: all submodels.
        router: picks one for a user; None for a plain SASRec, whose space holds one route.
    """

    supernet: Supernet
    router: Router | None

    @property
    def space(self) -> RoutingSpace:
        """The routing space."""
        return self.supernet.config.space

    @torch.no_grad()
    def route(self, seq: Tensor, point: int = BALANCED) -> Tensor:
        """Route ids [B] int64 of left-padded histories [B, T] at an operating point: argmax, the lowest id on
        ties."""
        if self.router is None:
            return torch.zeros(len(seq), dtype=torch.int64, device=seq.device)
        return self.router.route(seq, self.supernet.item_table, point)

    def eval(self) -> Canet:
        """Switch both to inference and return self."""
        self.supernet.eval()
        if self.router is not None:
            self.router.eval()
        return self
