"""The graphs as LiteRT takes them: those of :mod:`canet_export.graph`, but for two forms of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_export.graph import Embedding, Leaf, Linear, RouteGraph, RouterGraph, Slice, Weights, build_graphs
from canet_export.integers import GROUP
from canet_export.job import Job
from canet_mobile.model.canet import Canet
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS

LOWEST = -3e38


class ExcludingGraph(RouteGraph):
    """A route that takes k + L candidates, then drops those that stand in the input.

    A scatter over the catalogue would stay outside the delegate and copy every score; this looks at k + L.
    """

    def forward(self, seq: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(seq)
        values, ids = torch.topk(scores, min(self.k + seq.shape[1], scores.shape[-1]), dim=-1)
        ids = ids.to(torch.int32)
        seen = (ids.unsqueeze(-1) == seq.unsqueeze(1)).to(torch.float32).amax(-1)
        values = values * (1 - seen) + seen * PAD_CLASS_BIAS
        values, order = torch.topk(values, self.k, dim=-1)
        return values, ids.view(-1)[order.view(-1)].view(1, -1)


class Projection(Leaf):
    """A linear behind whose result stands a maximum with the lowest number, which changes nothing.

    Without it the converter multiplies the bias into the biases of the next block (b' = W b + b_q), with W in
    floats: no longer the model's numbers, and of no use to the other routes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(F.linear(x, self.weight, self.bias), torch.tensor(LOWEST))


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
        edges = {*space.embedding, *space.hidden} if tied else set[int]()
        if full is not None and full.bits == 4 and (name == "table" or tied):
            edges |= set(range(0, full.values.shape[-1], GROUP))
        pieces = [piece for leaf in leaves for piece in _cut(leaf.source, edges)]
        if isinstance(graph, RouterGraph):  # reads its first columns only
            pieces = [piece for piece in pieces if piece.start < graph.width]
        if len(pieces) == len(leaves):
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
    kind = ExcludingGraph if job.seen == "exclude" else RouteGraph
    for route in job.routes if routes is None else routes:
        graph = kind(weights, model, route, job.k, job.seen)
        if graph.project is not None:
            graph.project = Projection(  # type: ignore[assignment]
                graph.project.weight, graph.project.source, graph.project.bias
            )
        graphs[route.entry] = graph
    for each in graphs.values():
        _split_tables(each, weights, job)
    return {entry: graph.eval() for entry, graph in graphs.items()}
