"""The router: a one-layer SASRec of width 32 that reads a history and names a route (paper III-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_mobile.model.layers import Block, attention_bias, block_sliced, dropout
from canet_mobile.model.points import BALANCED, POINTS

ROUTER_WIDTH = 32
RouterTable = Literal["own", "shared"]


@dataclass(frozen=True)
class RouterConfig:
    """Sizes of a router.

    Args:
        items: number of items V.
        length: input length L.
        routes: number of routes, the size of the output.
        table: ``own`` item table [V+1, 32], or ``shared``: the first 32 channels of the supernet's table
            (paper: own; it is 11 % of all parameters).
        dropout: probability, in training only.
        width: channels, a multiple of 4; the paper's 32. With a shared table not more than the space's
            smallest embedding, so that the router reads the panel every route reads.
    """

    items: int
    length: int
    routes: int
    table: RouterTable = "shared"
    dropout: float = 0.1
    width: int = ROUTER_WIDTH


class Router(nn.Module):
    """History -> one logit per route.

    Parameters: item_table [V+1, 32] (only with an own table), table_scale (scalar, shared table only: brings
    the borrowed embeddings to unit variance), positions [L, 32], one block, head_weight [routes, 32],
    head_bias [routes]. The buffer points [operating points, routes] holds what each operating point adds to
    the logits; it is zero until the points are set, after training.
    """

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.table == "own":
            self.item_table = nn.Parameter(torch.randn(config.items + 1, width) * 0.02)
        else:
            self.table_scale: Tensor
            self.register_buffer("table_scale", torch.ones(()))
        self.positions = nn.Parameter(torch.randn(config.length, width) * 0.02)
        self.block = Block(width, residual=1.0)  # the only block must act from the first step
        self.head_weight = nn.Parameter(torch.randn(config.routes, width) * width**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(config.routes))
        self.points: Tensor
        self.register_buffer("points", torch.zeros(len(POINTS), config.routes))

    def table(self, supernet_table: Tensor) -> Tensor:
        """The item table the router reads, [V+1, 32]."""
        if self.config.table == "own":
            return self.item_table
        return supernet_table[:, : self.config.width] * self.table_scale

    def states(self, seq: Tensor, supernet_table: Tensor) -> Tensor:
        """States at every position, [B, T, 32]; causal, so position t knows nothing of t+1."""
        x = F.embedding(seq, self.table(supernet_table)) + self.positions[-seq.shape[1] :]
        x = dropout(x, self.config.dropout, self.training)
        return block_sliced(
            self.block, x, attention_bias(seq), self.config.width, self.config.dropout, self.training
        )

    def forward(self, seq: Tensor, supernet_table: Tensor) -> Tensor:
        """Logits [B, routes] of left-padded histories ``seq`` [B, T], before any operating point."""
        return F.linear(self.states(seq, supernet_table)[:, -1], self.head_weight, self.head_bias)

    def route(self, seq: Tensor, supernet_table: Tensor, point: int = BALANCED) -> Tensor:
        """Route ids [B] int64 at an operating point: argmax, the lowest id on ties, never sampled."""
        logits = self(seq, supernet_table) + self.points[point]
        ids = torch.arange(logits.shape[-1], device=logits.device)
        best = logits == logits.max(-1, keepdim=True).values
        return torch.where(best, ids, logits.shape[-1]).amin(-1)


def sample_routes(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Hard Gumbel-softmax with straight-through gradients (paper Eq. 5, 6): [B, routes], one-hot in value."""
    return F.gumbel_softmax(logits, tau=tau, hard=True)
