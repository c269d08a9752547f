"""The whole graph of a package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_export.job import Job
from canet_export.onnx.body import Body, are_items, items_of, pad_mask, route_of
from canet_export.onnx.nodes import Constants, Graph, model_of, used_names, value_info
from canet_export.onnx.numbers import Numbers
from canet_export.onnx.prefixes import Prefixes, rows_of_routes
from canet_mobile.model.points import POINT_INPUT

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
        """The initializers, by name."""
        used = used_names(self.graph.nodes)
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
    """Inputs ``seq`` int32 [1, L], ``force_route`` and ``point`` int32 [1]; outputs ``route`` int64 [1],
    ``scores`` float32 [1, k], ``ids`` int64 [1, k].

    No input has a default: Java's ``OrtSession`` takes none that has one.

    ``force_route`` is a route id, -1 for the router's choice, or -2 (and anything below) for the router
    alone: the route does not run then, scores and ids are zeros. ONNX Runtime runs every node of a graph
    whatever is fetched, so that only a branch can leave one out. Any other id than those of ``job.routes`` is
    an error.

    ``point`` is the operating point at which the router chooses; another than those there are is an error. A
    graph with nothing to choose takes it too, and a forced route does not read it, so that an app is written
    once.

    An id in ``seq`` that is no item's is padding.

    A plain graph has ``seq`` alone, and takes any number of histories, [N, L].

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
    is_item = are_items(graph, "seq", job.canet.supernet.config.items)
    seq = graph.node("Where", is_item, "seq", graph.scalar("pad_id", 0, np.int32))
    pad = pad_mask(graph, is_item, one=not job.plain)
    items = items_of(graph, numbers, seq)
    only_id = ids[0] if job.canet.router is not None else 0  # as the reference answers without a router
    only = graph.constants.add("only_route", np.array([only_id], np.int64))

    def ask(inner: Graph) -> str:
        return route_of(inner, numbers, items, seq, pad, POINT_INPUT) if numbers.has_router else only

    if not job.plain:
        inputs += [value_info(name, INT32, [1]) for name in (FORCE, POINT_INPUT)]
    route = graph.rename(only if job.plain else _chosen(graph, ask, ids, len(space)), "route")
    if router_only:
        return Built(graph, inputs, outputs)

    def answer(inner: Graph) -> tuple[str, str]:
        pad_to = numbers.classifier_width if numbers.has_four_bit_classifier else 0
        cuts = Prefixes(inner, job.routes, ids, len(space), route, pad_to)
        return Body(inner, numbers, cuts).answer(items, seq, pad)

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


def _chosen(graph: Graph, ask: Callable[[Graph], str], ids: Sequence[int], count: int) -> str:
    """The route id, int64 [1]: the forced one, else that of ``ask``. Forced, the router does not run.

    Args:
        graph: the main graph.
        ask: writes the router's choice.
        ids: the exported routes.
        count: number of routes of the whole space.
    """

    def forced(inner: Graph) -> str:
        # Gather refuses a place that is nowhere: only an exported route comes out as it went in.
        row = inner.node("Gather", rows_of_routes(inner, ids, count), FORCE)
        return inner.node("Gather", inner.constants.add("id_of_row", np.array(ids, np.int64)), row)

    asks = graph.node("Less", FORCE, graph.scalar("pad_id", 0, np.int32))
    return graph.branch(asks, ask, forced, INT64, [1])
