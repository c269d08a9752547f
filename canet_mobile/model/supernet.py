"""The weight-shared SASRec supernet (paper Eq. 1, 3, 4): every submodel is a prefix of every weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_mobile.errors import UsageError
from canet_mobile.model.layers import (
    Block,
    Gates,
    attention_bias,
    block_masked,
    block_sliced,
    dropout,
    new_blocks,
)
from canet_mobile.model.space import Route, RoutingSpace

# Class 0 is padding. Its bias makes its softmax probability exactly zero, so it is never learned,
# sampled or recommended, and it fits fp16.
PAD_CLASS_BIAS = -1e4


@dataclass(frozen=True)
class SupernetConfig:
    """Sizes of a supernet.

    Args:
        items: number of items V; ids run 1..V, 0 is padding.
        length: input length L.
        space: the routing space; its largest route is the supernet.
        dropout: probability, in training only.
        in_projection: map embedding to hidden width. A plain SASRec (one route, equal widths) has none.
        tied: score with the item table instead of a classifier of its own, as SASRec's authors do; the
            widest embedding must equal the widest hidden.
        residual: the learnable residual weight λ of the first block at the start; unless it is 0, attention
            starts as a mean of the history (identity value and output projections).
        residual_power: block n starts at residual / n^residual_power.
    """

    items: int
    length: int
    space: RoutingSpace = field(default_factory=RoutingSpace)
    dropout: float = 0.2
    in_projection: bool = True
    tied: bool = False
    residual: float = 0.0
    residual_power: float = 0.0


class Supernet(nn.Module):
    """All submodels in one set of weights.

    Parameters, with E and H the largest widths: item_table [V+1, E], positions [L, E], in_weight [H, E],
    in_bias [H], blocks, own_classifier [V+1, H] (unless tied), classifier_bias [V+1].
    """

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        widest = config.space.largest
        embedding, hidden = widest.embedding, widest.hidden
        if config.tied and embedding != hidden:
            raise UsageError(
                f"a tied classifier needs equal widths, not embedding {embedding} and hidden {hidden}",
                fix="--set tied=false",
            )
        self.item_table = nn.Parameter(torch.randn(config.items + 1, embedding) * 0.02)
        self.positions = nn.Parameter(torch.randn(config.length, embedding) * 0.02)
        if config.in_projection:
            # Tied, states must come back to the items' own coordinates, so they start there.
            start = (
                torch.eye(hidden) if config.tied else torch.randn(hidden, embedding) / math.sqrt(embedding)
            )
            self.in_weight = nn.Parameter(start)
            self.in_bias = nn.Parameter(torch.zeros(hidden))
        self.blocks = new_blocks(widest.depth, hidden, config.residual, config.residual_power)
        if not config.tied:
            self.own_classifier = nn.Parameter(torch.randn(config.items + 1, hidden) * 0.02)
        self.classifier_bias = nn.Parameter(torch.zeros(config.items + 1))
        with torch.no_grad():
            self.classifier_bias[0] = PAD_CLASS_BIAS

    @property
    def classifier_weight(self) -> Tensor:
        """The classifier W [V+1, H]: its own, or the item table when they are tied."""
        return self.item_table if self.config.tied else self.own_classifier

    def _project(self, x: Tensor, hidden: int) -> Tensor:
        if not self.config.in_projection:
            return x
        return F.linear(x, self.in_weight[:hidden, : x.shape[-1]], self.in_bias[:hidden])

    def _embed(self, seq: Tensor, embedding: int) -> Tensor:
        table = self.item_table[:, :embedding]
        x = F.embedding(seq, table) + self.positions[-seq.shape[1] :, :embedding]
        return dropout(x, self.config.dropout, self.training)

    def _block(self, depth: int, x: Tensor, bias: Tensor, hidden: int, *, last: bool = False) -> Tensor:
        block: Block = self.blocks[depth]  # type: ignore[assignment]
        return block_sliced(block, x, bias, hidden, self.config.dropout, self.training, last=last)

    def sliced(self, seq: Tensor, route: Route) -> Tensor:
        """States of one submodel at its true size.

        Args:
            seq: item ids [B, T], T <= L, left-padded with 0.
            route: which submodel.

        Returns:
            [B, T, route.hidden] float.
        """
        return self.sliced_depths(seq, route.embedding, route.hidden, (route.depth,))[0]

    def last_states(self, seq: Tensor, route: Route) -> Tensor:
        """States of one submodel at the last position alone, [B, route.hidden]: all that ranking needs.

        Equals ``sliced(seq, route)[:, -1]``; the last block computes one position, as in the exported graphs.
        """
        x = self._project(self._embed(seq, route.embedding), route.hidden)
        bias = attention_bias(seq)
        for depth in range(route.depth):
            x = self._block(depth, x, bias, route.hidden, last=depth + 1 == route.depth)
        return x[:, -1]

    def sliced_depths(
        self, seq: Tensor, embedding: int, hidden: int, depths: tuple[int, ...]
    ) -> list[Tensor]:
        """States of every submodel of one width after each of the ascending ``depths``, in one pass."""
        x = self._project(self._embed(seq, embedding), hidden)
        bias = attention_bias(seq)
        states = []
        for depth in range(depths[-1]):
            x = self._block(depth, x, bias, hidden)
            if depth + 1 in depths:
                states.append(x)
        return states

    def grouped(self, seq: Tensor, route_ids: Tensor) -> list[tuple[Tensor, Tensor, int]]:
        """A route per row, at true size: rows grouped by hidden width, each leaving at its depth.

        Args:
            seq: item ids [B, T].
            route_ids: [B] int64.

        Returns:
            One ``(rows, states, hidden)`` per width present: row numbers [n], states [n, T, hidden].
        """
        space = self.config.space
        sizes = torch.tensor([(r.embedding, r.hidden, r.depth) for r in space.routes], device=seq.device)
        sizes = sizes[route_ids]
        embedding_channel = torch.arange(space.largest.embedding, device=seq.device)
        groups = []
        for hidden in space.hidden:
            rows = (sizes[:, 1] == hidden).nonzero()[:, 0]
            if not len(rows):
                continue
            rows = rows[sizes[rows, 2].argsort(descending=True, stable=True)]
            depths = sizes[rows, 2].tolist()
            inside = (embedding_channel < sizes[rows, :1])[:, None]
            x = self._project(self._embed(seq[rows], space.largest.embedding) * inside, hidden)
            bias = attention_bias(seq[rows])
            done: list[Tensor] = []
            for depth in range(depths[0]):
                x = self._block(depth, x, bias, hidden)
                going_on = sum(d > depth + 1 for d in depths)
                if going_on < len(x):
                    done.insert(0, x[going_on:])
                    x, bias = x[:going_on], bias[:going_on]
            groups.append((rows, torch.cat(done), hidden))
        return groups

    def masked(self, seq: Tensor, alpha: Tensor) -> Tensor:
        """A route per row at full width, differentiable in the choice (paper Eq. 6).

        Args:
            seq: item ids [B, T].
            alpha: route weights [B, routes], one-hot in value; straight-through gradients pass.

        Returns:
            [B, T, H]; channels beyond a row's hidden width are zero.
        """
        space = self.config.space
        widest = space.largest

        def sizes(field_name: str) -> Tensor:
            return torch.tensor([getattr(r, field_name) for r in space.routes], device=seq.device)

        gates = Gates(alpha, sizes("embedding"), sizes("hidden"), widest.embedding, widest.hidden)
        x = self._embed(seq, widest.embedding) * gates.embedding
        x = self._project(x, widest.hidden) * gates.channels
        bias = attention_bias(seq)
        depth_of_route = sizes("depth")
        out = torch.zeros_like(x)
        for depth, block in enumerate(self.blocks, start=1):
            x = block_masked(block, x, bias, gates, self.config.dropout, self.training)  # type: ignore[arg-type]
            if depth in space.depth:
                leaves = alpha @ (depth_of_route == depth).to(alpha.dtype)
                out = out + leaves[:, None, None] * x
        return out

    def scores(self, states: Tensor) -> Tensor:
        """Scores of every class: states [..., h] -> [..., V+1]; class 0 never wins (its bias is -1e4)."""
        return F.linear(states, self.classifier_weight[:, : states.shape[-1]], self.classifier_bias)
