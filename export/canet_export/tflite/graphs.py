"""The graphs as LiteRT takes them: those of :mod:`canet_export.graph`, but for two forms of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_export.graph import Leaf, RouteGraph, Seen, Weights, build_graphs
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


def tflite_graphs(model: Canet, routes: Sequence[Route], k: int, seen: Seen) -> dict[str, nn.Module]:
    """The router's graph and one per route, by entry, in eval mode; as :func:`build_graphs`."""
    graphs = build_graphs(model, (), k, seen)  # the router
    weights = Weights(model)
    kind = ExcludingGraph if seen == "exclude" else RouteGraph
    for route in routes:
        graph = kind(weights, model, route, k, seen)
        if graph.project is not None:
            graph.project = Projection(  # type: ignore[assignment]
                graph.project.weight, graph.project.source, graph.project.bias
            )
        graphs[route.entry] = graph
    return {entry: graph.eval() for entry, graph in graphs.items()}
