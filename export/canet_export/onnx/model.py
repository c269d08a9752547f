"""The whole graph of a package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_export.job import Job
from canet_export.onnx.body import Body, items_of, pad_mask, route_of
from canet_export.onnx.nodes import Constants, Graph, model_of, used_names, value_info
from canet_export.onnx.numbers import Numbers
from canet_export.onnx.prefixes import Prefixes
from canet_mobile.model.points import BALANCED, POINT_INPUT

INT32, INT64, FLOAT = 6, 7, 1  # TensorProto
FORCE = "force_route"
ASK, ASK_ONLY = -1, -2  # values of force_route: run the router's route; run the router alone


@dataclass(frozen=True)
class Built:
    """A finished graph: its nodes and constants, and the declarations of what goes in and out."""

    graph: Graph
    inputs: Sequence[Any]
    outputs: Sequence[Any]

    def stored(self) -> dict[str, NDArray[Any]]:
        """The initializers, by name; the default of an input that no node takes is one too."""
        used = used_names(self.graph.nodes) | {value.name for value in self.inputs}
        return {name: array for name, array in self.graph.constants.arrays.items() if name in used}

    def model(self, *, with_numbers: bool = True) -> Any:
        """The ModelProto, without its initializers if so wanted."""
        return model_of(self.graph, self.inputs, self.outputs, self.stored() if with_numbers else {})

    def file_bytes(self) -> int:
        """How large the file would be, but for a few bytes that frame each tensor."""
        stored = self.stored()
        frames = sum(len(name) + 16 for name in stored)
        data = sum(array.nbytes for array in stored.values())
        return self.model(with_numbers=False).ByteSize() + data + frames


def build_model(job: Job) -> Any:
    """The ModelProto of :func:`build_graph`."""
    return build_graph(job).model()


def build_graph(job: Job, *, router_only: bool = False) -> Built:
    """Inputs ``seq`` int32 [1, L] and, optional, ``force_route`` and ``point`` int32 [1]; outputs ``route``
    int64 [1], ``scores`` float32 [1, k], ``ids`` int64 [1, k].

    ``force_route`` is a route id, -1 (the default) for the router's choice, or -2 for the router alone: the
    route does not run then, scores and ids are zeros. ONNX Runtime runs every node of a graph whatever is
    fetched, so that only a branch can leave one out.

    ``point`` is the operating point at which the router chooses, by default the balanced one. A graph with
    nothing to choose takes it too, so that an app is written once.

    A plain graph has neither and takes any number of histories, [N, L].

    Args:
        job: what to write.
        router_only: leave the routes out, to see how large the router alone is.
    """
    numbers, graph = Numbers(job), Graph(Constants())
    length, space = job.canet.supernet.config.length, job.canet.space
    ids = [space.id_of(route) for route in job.routes]
    rows: int | str = "N" if job.plain else 1
    inputs = [value_info("seq", INT32, [rows, length])]
    outputs = [value_info("route", INT64, [1])]
    pad = pad_mask(graph, "seq", one=not job.plain)
    items = items_of(graph, numbers, "seq")
    only = ids[0] if job.canet.router is not None else 0  # as the reference answers without a router
    route = graph.constants.add("only_route", np.array([only], np.int64))
    if not job.plain:
        inputs += [value_info(name, INT32, [1]) for name in (FORCE, POINT_INPUT)]
        route = _chosen(graph, numbers, route, items, pad)
    route = graph.rename(route, "route")
    if router_only:
        return Built(graph, inputs, outputs)

    def answer(inner: Graph) -> tuple[str, str]:
        pad_to = numbers.classifier_width if numbers.has_four_bit_classifier else 0
        cuts = Prefixes(inner, job.routes, ids, len(space), route, pad_to)
        return Body(inner, numbers, cuts).answer(items, "seq", pad)

    kinds = [(FLOAT, [rows, job.k]), (INT64, [rows, job.k])]
    found: Sequence[str]
    if job.plain:
        found = answer(graph)
    else:
        runs = graph.node("Greater", FORCE, graph.scalar("ask_only", ASK_ONLY, np.int32))
        found = graph.branches(runs, answer, lambda inner: _nothing(inner, job.k), kinds)
    for value, name, kind in zip(found, ("scores", "ids"), kinds, strict=True):
        graph.rename(value, name)
        outputs.append(value_info(name, *kind))
    return Built(graph, inputs, outputs)


def _nothing(graph: Graph, k: int) -> tuple[str, str]:
    """Zeros in place of scores and ids."""
    names = (
        graph.constants.add("no_scores", np.zeros((1, k), np.float32)),
        graph.constants.add("no_ids", np.zeros((1, k), np.int64)),
    )
    return graph.node("Identity", names[0]), graph.node("Identity", names[1])


def _chosen(graph: Graph, numbers: Numbers, only: str, items: str, pad: str) -> str:
    """The route id, int64 [1]: the forced one, else the router's. Forced, the router does not run."""
    graph.constants.add(FORCE, np.array([ASK], np.int32))
    graph.constants.add(POINT_INPUT, np.array([BALANCED], np.int32))
    asks = graph.node("Less", FORCE, graph.scalar("pad_id", 0, np.int32))

    def ask(inner: Graph) -> str:
        return route_of(inner, numbers, items, "seq", pad, POINT_INPUT) if numbers.has_router else only

    return graph.branch(asks, ask, lambda inner: inner.node("Cast", FORCE, to=INT64), INT64, [1])
