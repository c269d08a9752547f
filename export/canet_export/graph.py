"""The static graphs of a package: one per route and one for the router, written for mobile compilers.

Same function as :meth:`Supernet.sliced` followed by the classifier, in a form that a delegate takes whole:
batch 1, three-dimensional attention, LayerNorm out of two products and a reciprocal root, masks as
constants, and a last block that computes its last position only. Item table and classifier are nested column
panels, stored once for all routes; the blocks are contiguous prefix slices.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_export.slices import Embedding, Linear, Slice, Weights, own_storage, panels
from canet_mobile.model.canet import Canet
from canet_mobile.model.layers import LAYER_NORM_EPS, MASK_FUTURE, MASK_PAD
from canet_mobile.model.space import FFN, HEADS, Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS
from canet_mobile.package.lengths import entry_at

Seen = Literal["keep", "exclude"]
ROUTER_ENTRY = "router"


class Norm(nn.Module):
    """LayerNorm as products and a reciprocal root: a delegate takes these, and not ``native_layer_norm``."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        width = len(weight)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.mean = nn.Parameter(torch.full((1, width), 1 / width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x - F.linear(x, self.mean)
        variance = F.linear(x * x, self.mean)
        return x * torch.rsqrt(variance + LAYER_NORM_EPS) * self.weight + self.bias


class BlockGraph(nn.Module):
    """One block of width ``hidden`` (paper Eq. 1), lambda folded; channel c belongs to head c mod 4."""

    def __init__(self, weights: Weights, prefix: str, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        qkv = (weights.linear(f"{prefix}.qkv", hidden, hidden, part) for part in range(3))
        self.q, self.k, self.v = qkv
        self.out = weights.linear(f"{prefix}.out", hidden, hidden)
        self.ffn1 = weights.linear(f"{prefix}.ffn1", FFN * hidden, hidden)
        self.ffn2 = weights.linear(f"{prefix}.ffn2", hidden, FFN * hidden)
        self.norm1, self.norm2 = (
            Norm(*(weights.vector(f"{prefix}.norm{n}_{kind}", hidden) for kind in ("weight", "bias")))
            for n in (1, 2)
        )

    def forward(self, x: Tensor, mask: Tensor, last: bool) -> Tensor:
        """x [1, T, hidden], mask [1, T or 1, T] -> [1, T, hidden], or [1, 1, hidden] with ``last``."""
        asked = x[:, -1:, :] if last else x
        time, queries, channels = x.shape[1], asked.shape[1], self.hidden // HEADS
        q = self.q(asked).view(queries, channels, HEADS).permute(2, 0, 1)
        k = self.k(x).view(time, channels, HEADS).permute(2, 1, 0)
        v = self.v(x).view(time, channels, HEADS).permute(2, 0, 1)
        attention = torch._softmax(torch.bmm(q, k) * (1 / math.sqrt(channels)) + mask, -1, False)
        mixed = torch.bmm(attention, v).permute(1, 2, 0).contiguous().view(1, queries, self.hidden)
        x = self.norm1(asked + self.out(mixed))
        return self.norm2(x + self.ffn2(F.gelu(self.ffn1(x))))


class _Graph(nn.Module):
    """What route and router share: the embedding of a history and its masks."""

    def __init__(self, weights: Weights, table: str, cuts: list[tuple[int, int]], positions: Tensor) -> None:
        super().__init__()
        self.length = len(positions)
        rows = len(weights.full[table])
        self.rows = rows
        sources = [Slice(table, rows, *cut) for cut in cuts]
        self.table = nn.ModuleList(Embedding(weights.matrix(s), s) for s in sources)
        self.positions = nn.Parameter(positions, requires_grad=False)

    def known(self, seq: Tensor) -> Tensor:
        """The history with every id that is none of the table's made padding.

        A look-up outside the table ends the process in ExecuTorch's int8 kernel. The loader refuses such an
        id; this is for an app that does not ask it.
        """
        return torch.where((seq < 0) | (seq >= self.rows), 0, seq)

    def embedded(self, seq: Tensor) -> Tensor:
        ids = seq.to(torch.int64)  # ExecuTorch's quantized embedding takes nothing else
        found = [panel(ids) for panel in self.table]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    @staticmethod
    def pad_mask(seq: Tensor) -> Tensor:
        """[1, 1, T]: -1e4 on padding."""
        return (seq == 0).to(torch.float32).unsqueeze(1) * MASK_PAD


class RouteGraph(_Graph):
    """One submodel: seq [1, n] int32 -> (scores [1, k] float32, ids [1, k] int64), best first.

    Args:
        weights: of a model whose residual scalars are folded.
        canet: that model, for its sizes.
        route: which submodel.
        k: how many items to return.
        seen: ``exclude`` puts the items of the input out of the top k.
        length: n, the newest positions that are computed; None computes all L.
    """

    def __init__(
        self,
        weights: Weights,
        canet: Canet,
        route: Route,
        k: int,
        seen: Seen,
        length: int | None = None,
    ) -> None:
        config = canet.supernet.config
        space, h = config.space, route.hidden
        positions = weights.matrix(Slice("supernet.positions", config.length, 0, route.embedding))
        positions = newest(positions, length)
        super().__init__(weights, "supernet.item_table", panels(space.embedding, route.embedding), positions)
        self.k, self.seen, self.route = k, seen, route
        self.project = weights.linear("supernet.in", h, route.embedding) if config.in_projection else None
        self.blocks = nn.ModuleList(
            BlockGraph(weights, f"supernet.blocks.{n}", h) for n in range(route.depth)
        )
        if route.depth > 1:  # the last block asks for the last position, which has no future
            future = torch.full((1, self.length, self.length), MASK_FUTURE).triu(1)
            self.future = nn.Parameter(future, requires_grad=False)
        self.cuts = panels(space.hidden, h)
        table = "supernet.item_table" if config.tied else "supernet.own_classifier"
        sources = [Slice(table, config.items + 1, *cut) for cut in self.cuts]
        bias = weights.vector("supernet.classifier_bias", config.items + 1)
        self.classifier = nn.ModuleList(
            Linear(weights.matrix(s), s, None if s.start else bias) for s in sources
        )

    def front(self, seq: Tensor) -> Tensor:
        """What the blocks are given, [1, n, hidden]."""
        x = self.embedded(seq) + self.positions
        return x if self.project is None else self.project(x)

    def scores(self, seq: Tensor) -> Tensor:
        """Scores of every class, [1, V+1]."""
        return self.scores_of(seq, self.front(seq))

    def scores_of(self, seq: Tensor, x: Tensor) -> Tensor:
        """Scores of every class, [1, V+1], from what :meth:`front` returns."""
        pad = self.pad_mask(seq)
        mask = self.future + pad if len(self.blocks) > 1 else pad
        for n, block in enumerate(self.blocks, start=1):
            is_last = n == len(self.blocks)
            x = block(x, pad if is_last else mask, is_last)
        first, *others = self.classifier
        scores = first(x if not others else x[..., : self.cuts[0][1]])
        for panel, (start, stop) in zip(others, self.cuts[1:], strict=True):
            scores = scores + panel(x[..., start:stop])
        return scores.view(1, -1)

    def forward(self, seq: Tensor) -> tuple[Tensor, Tensor]:
        seq = self.known(seq)
        scores = self.scores(seq)
        if self.seen == "exclude":  # padding marks class 0, which is never recommended anyway
            scores = scores.scatter(1, seq.to(torch.int64), PAD_CLASS_BIAS)
        values, ids = torch.topk(scores, self.k, dim=-1)
        return values, ids


class RouterGraph(_Graph):
    """The router: seq [1, n] int32, point [1] int32 -> route id [1] int64; argmax, the lowest id on ties.

    With a shared table it reads the supernet's first panels and owns no table. ``points`` [operating points,
    routes] is float32 in every preset; a point is one look-up in it and one sum.
    """

    def __init__(self, weights: Weights, canet: Canet, length: int | None = None) -> None:
        assert canet.router is not None
        own, self.width = canet.router.config.table == "own", canet.router.config.width
        widths = canet.space.embedding
        enough = next((width for width in widths if width >= self.width), widths[-1])
        cuts = [(0, self.width)] if own else panels(widths, enough)
        table = "router.item_table" if own else "supernet.item_table"
        super().__init__(weights, table, cuts, newest(weights.full["router.positions"], length))
        self.table_scale = 1.0 if own else float(weights.full["router.table_scale"])
        self.block = BlockGraph(weights, "router.block", self.width)
        self.head = weights.linear("router.head", len(weights.full["router.head_bias"]), self.width)
        self.points = nn.Parameter(own_storage(weights.full["router.points"]), requires_grad=False)

    def forward(self, seq: Tensor, point: Tensor) -> Tensor:
        seq = self.known(seq)
        x = self.embedded(seq)
        if x.shape[-1] != self.width:
            x = x[..., : self.width]
        if self.table_scale != 1.0:
            x = x * self.table_scale
        x = self.block(x + self.positions, self.pad_mask(seq), True)
        return torch.argmax(self.head(x).view(1, -1) + F.embedding(point, self.points), -1)


def restricted(canet: Canet, exported: Sequence[int]) -> Canet:
    """The model whose router chooses among ``exported`` route ids only; itself when that is all of them.

    The other routes get the bias of padding, -1e4, and no operating point adds to it, so that a package never
    names an entry it does not hold; twice that where training already gave it to an exported one.
    """
    others = [route_id for route_id in range(len(canet.space)) if route_id not in set(exported)]
    if canet.router is None or not others:
        return canet
    router = copy.deepcopy(canet.router)
    with torch.no_grad():
        kept = float((router.head_bias + router.points)[:, list(exported)].min())
        router.head_bias[others] = PAD_CLASS_BIAS if kept > PAD_CLASS_BIAS / 2 else 2 * PAD_CLASS_BIAS
        router.points[:, others] = 0.0
    return Canet(canet.supernet, router)


class ConstantRouter(nn.Module):
    """The router of a plain SASRec, which has one route: always 0, whatever the history and the point."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, seq: Tensor, point: Tensor) -> Tensor:
        return (seq[:, -1] * 0 + point * 0).to(torch.int64)


def newest(positions: Tensor, length: int | None) -> Tensor:
    """The rows [n, e] of the newest positions of a table [L, e], in storage of their own."""
    return positions if length in (None, len(positions)) else own_storage(positions[-length:])


def build_graphs(
    model: Canet, routes: Sequence[Route], k: int, seen: Seen, lengths: Sequence[int] | None = None
) -> dict[str, nn.Module]:
    """The router's graph and one per route, by entry, in eval mode; each at every length.

    Args:
        model: with lambda folded and the package's numbers in place (:attr:`Job.reference`).
        routes: which submodels.
        k: how many items a route returns.
        seen: the policy inside the graphs.
        lengths: ascending, the model's own L last; None is L alone. Names of the shorter ones are those of
            :func:`canet_mobile.package.lengths.entry_at`, and follow those at L.
    """
    weights, longest = Weights(model), model.supernet.config.length
    graphs: dict[str, nn.Module] = {}
    for length in [longest, *(lengths or (longest,))[:-1]]:
        router = ConstantRouter(length) if model.router is None else RouterGraph(weights, model, length)
        graphs[entry_at(ROUTER_ENTRY, length, longest)] = router
        for route in routes:
            graph = RouteGraph(weights, model, route, k, seen, length)
            graphs[entry_at(route.entry, length, longest)] = graph
    return {entry: graph.eval() for entry, graph in graphs.items()}
