"""What a route takes of every stored tensor: a prefix whose ends are known when the graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canet_export.onnx.nodes import Graph
from canet_mobile.model.space import FFN, HEADS, Route

# Sizes by letter: embedding, hidden, channels of a head, inner width of the FFN.
Key = str
ENDS: tuple[Key, ...] = ("e", "h", "c", "f", "eh", "hc", "ch", "hf", "fh")
NOWHERE = 2**31 - 1  # a row that the table does not have: Gather refuses it


def sizes_of(route: Route) -> dict[str, int]:
    """A route's sizes by letter."""
    h = route.hidden
    return {"e": route.embedding, "h": h, "c": h // HEADS, "f": FFN * h, "d": route.depth}


class Prefixes:
    """Cuts stored tensors, which hold the widest exported route, to the size of the chosen one.

    A size that all exported routes share is no run-time value; a file of one route has no cuts at all.

    Args:
        graph: the main graph.
        routes: the exported routes.
        ids: their ids.
        count: number of routes of the whole space.
        route: name of the chosen route's id, int64 [1].
    """

    def __init__(
        self, graph: Graph, routes: Sequence[Route], ids: Sequence[int], count: int, route: str
    ) -> None:
        rows = [sizes_of(route) for route in routes]
        self.fixed = {key: rows[0][key] for key in rows[0] if len({row[key] for row in rows}) == 1}
        keys = [key for key in (*ENDS, "d") if not set(key) <= self.fixed.keys()]
        if "h" in keys:
            keys.append("scales")
        self.ends: dict[Key, str] = {}
        if not keys:
            return
        columns = [[_column(row, key) for key in keys] for row in rows]
        table = np.array([sum(row, []) for row in columns], np.int64)
        row_of = np.full(count, NOWHERE, np.int64)
        row_of[list(ids)] = np.arange(len(ids))
        row = graph.node("Gather", graph.constants.add("row_of_route", row_of), route)
        row = graph.node("Squeeze", row)
        sizes = graph.node("Gather", graph.constants.add("sizes_of_route", table), row)
        lengths = graph.integers(*(len(column) for column in columns[0]))
        names = graph.outputs("Split", sizes, lengths, count=len(keys), axis=0)
        self.ends = dict(zip(keys, names, strict=True))

    def cut(self, graph: Graph, value: str, key: Key, axes: Sequence[int]) -> str:
        """The prefix of ``value`` along ``axes``, one letter of ``key`` each."""
        if key not in self.ends:
            return value
        starts = graph.integers(*[0] * len(axes))
        return graph.node("Slice", value, starts, self.ends[key], graph.integers(*axes))

    def is_fixed(self, key: Key) -> bool:
        """Whether every exported route has the same."""
        return set(key) <= self.fixed.keys()


def _column(row: dict[str, int], key: Key) -> list[int]:
    if key == "scales":  # bias of q, k, v; scale of q; scales of k, v
        return [3 * row["h"], row["h"], 2 * row["h"]]
    return [row[letter] for letter in key]
