"""The graphs as LiteRT takes them: as :mod:`canet_export.graph`, in two parts, with tables cut further."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from canet_export.graph import RouteGraph, RouterGraph, Seen, build_graphs
from canet_export.job import Job
from canet_export.slices import Embedding, Leaf, Linear, Slice, Weights
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import GROUP, TABLE
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS


class TfliteRoute(RouteGraph):
    """A route. With ``exclude`` it takes k + L candidates, then drops those that stand in the input.

    A scatter over the catalogue would stay outside the delegate and copy every score; this looks at k + L.

    Args:
        weights, canet, route, k, seen: as of :class:`RouteGraph`; ``canet`` may stand in for another one.
        classes: of the model that is exported, V + 1: there may be fewer than k + L.
    """

    def __init__(
        self, weights: Weights, canet: Canet, route: Route, k: int, seen: Seen, classes: int
    ) -> None:
        super().__init__(weights, canet, route, k, seen)
        self.candidates = min(k + canet.supernet.config.length, classes)

    def answer(self, seq: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if self.seen == "keep":
            values, ids = torch.topk(scores, self.k, dim=-1)
            return values, ids
        values, ids = torch.topk(scores, self.candidates, dim=-1)
        ids = ids.to(torch.int32)
        seen = (ids.unsqueeze(-1) == seq.unsqueeze(1)).to(torch.float32).amax(-1)
        values = values * (1 - seen) + seen * PAD_CLASS_BIAS
        values, order = torch.topk(values, self.k, dim=-1)
        return values, ids.view(-1)[order.view(-1)].view(1, -1)


class Front(nn.Module):
    """A route's first part, the same for every depth: seq [1, L] -> [1, L, hidden]."""

    def __init__(self, graph: TfliteRoute) -> None:
        super().__init__()
        self.whole = graph

    def forward(self, seq: Tensor) -> Tensor:
        return self.whole.front(self.whole.known(seq))


class Body(nn.Module):
    """A route's second part, the same for every embedding width: seq [1, L], x -> scores, ids [1, k]."""

    def __init__(self, graph: TfliteRoute) -> None:
        super().__init__()
        self.whole = graph

    def forward(self, seq: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        seq = self.whole.known(seq)
        return self.whole.answer(seq, self.whole.scores_of(seq, x))


def _split_tables(graph: nn.Module, weights: Weights, job: Job) -> None:
    """Cut item table and classifier further where the file needs it.

    A table of 4-bit integers is cut into groups, so that every row of a panel has one scale: a look-up knows
    no others. A tied classifier is cut like the table, to use the very same panels.
    """
    space, tied = job.canet.space, job.canet.supernet.config.tied
    for name in ("table", "classifier"):
        leaves = [*getattr(graph, name, ())]
        if not leaves:
            continue
        full = None if job.integers is None else job.integers.tensors.get(leaves[0].source.name)
        tied_here = tied and leaves[0].source.name == TABLE
        edges = {*space.embedding, *space.hidden} if tied_here else set[int]()
        if full is not None and full.bits == 4 and (name == "table" or tied):
            edges |= set(range(0, full.values.shape[-1], GROUP))
        pieces = [piece for leaf in leaves for piece in _cut(leaf.source, edges)]
        if isinstance(graph, RouterGraph):  # reads its first columns only
            pieces = [piece for piece in pieces if piece.start < graph.width]
        if pieces == [leaf.source for leaf in leaves]:
            continue
        if name == "table":
            made: list[Leaf] = [Embedding(weights.matrix(piece), piece) for piece in pieces]
        else:
            first = leaves[0].bias
            made = [Linear(weights.matrix(p), p, None if p.start else first) for p in pieces]
            graph.cuts = [(piece.start, piece.stop) for piece in pieces]  # type: ignore[assignment]
        setattr(graph, name, nn.ModuleList(made))


def _cut(source: Slice, edges: set[int]) -> list[Slice]:
    inside = sorted(edge for edge in edges if source.start < edge < source.stop)
    bounds = itertools.pairwise([source.start, *inside, source.stop])
    return [replace(source, start=start, stop=stop) for start, stop in bounds]


def tflite_graphs(
    job: Job, model: Canet | None = None, routes: Sequence[Route] | None = None
) -> dict[str, nn.Module]:
    """The router's graph and one per route, by entry, in eval mode; as :func:`build_graphs`.

    Args:
        job: what is written.
        model: other numbers than the job's reference.
        routes: other routes than the job's.
    """
    model = job.reference if model is None else model
    graphs = build_graphs(model, (), job.k, job.seen)  # the router
    weights = Weights(model)
    classes = job.canet.supernet.config.items + 1
    for route in job.routes if routes is None else routes:
        graphs[route.entry] = TfliteRoute(weights, model, route, job.k, job.seen, classes)
    for each in graphs.values():
        _split_tables(each, weights, job)
    return {entry: graph.eval() for entry, graph in graphs.items()}
