"""What a route takes of every stored tensor: a prefix whose ends are known when the graph runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from canet_export.onnx.nodes import Graph
from canet_mobile.model.space import FFN, HEADS, Route

# Ends of cuts, a letter an axis: embedding, hidden, channels of a head, inner width of the FFN; 1 and 3 of
# q, k and v.
Key = str
PADDED = "000p"  # pads [N, h] to the widest
ENDS: tuple[Key, ...] = ("e", "h", "c", "f", "eh", "hc", "h1c", "h3c", "ch", "hf", "fh", PADDED)
NOWHERE = 2**31 - 1  # a row that the table does not have: Gather refuses it


def rows_of_routes(graph: Graph, ids: Sequence[int], count: int) -> str:
    """A constant int64 [count]: each route's place among the exported ``ids``, or nowhere."""
    row_of = np.full(count, NOWHERE, np.int64)
    row_of[list(ids)] = np.arange(len(ids))
    return graph.constants.add("row_of_route", row_of)


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
        pad_to: width of a classifier that is stored in one piece; 0: there is none.
    """

    def __init__(
        self, graph: Graph, routes: Sequence[Route], ids: Sequence[int], count: int, route: str, pad_to: int
    ) -> None:
        rows = [sizes_of(route) for route in routes]
        for row in rows:
            row["p"] = pad_to - row["h"]
        self.fixed = {key: rows[0][key] for key in rows[0] if len({row[key] for row in rows}) == 1}
        keys = [key for key in (*ENDS, "d") if not self.is_fixed(key) and (pad_to or key != PADDED)]
        if "h" in keys:
            keys.append("scales")
        self.ends: dict[Key, str] = {}
        if not keys:
            return
        columns = [[_column(row, key) for key in keys] for row in rows]
        table = np.array([list(itertools.chain(*row)) for row in columns], np.int64)
        number = route
        if len(ids) < count:  # an id that is not exported must not run another route
            number = graph.node("Gather", rows_of_routes(graph, ids, count), route)
        number = graph.node("Squeeze", number)
        sizes = graph.node("Gather", graph.constants.add("sizes_of_route", table), number)
        lengths = graph.integers(*(len(column) for column in columns[0]))
        names = graph.outputs("Split", sizes, lengths, count=len(keys), axis=0)
        self.ends = dict(zip(keys, names, strict=True))

    def cut(self, graph: Graph, value: str, key: Key, axes: Sequence[int], starts: Sequence[int] = ()) -> str:
        """The piece of ``value`` along ``axes`` up to the ends that ``key`` names, from 0 or ``starts``."""
        if key not in self.ends:
            return value
        from_where = graph.integers(*(starts or [0] * len(axes)))
        return graph.node("Slice", value, from_where, self.ends[key], graph.integers(*axes))

    def is_fixed(self, key: Key) -> bool:
        """Whether every exported route has the same."""
        return {letter for letter in key if letter.isalpha()} <= self.fixed.keys()


def _column(row: dict[str, int], key: Key) -> list[int]:
    if key == "scales":  # bias of q, k, v; scale of q; scales of k, v
        return [3 * row["h"], row["h"], 2 * row["h"]]
    return [int(letter) if letter.isdigit() else row[letter] for letter in key]
