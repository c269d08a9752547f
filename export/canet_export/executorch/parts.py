"""``--split``: constants in files of their own (``.ptd``), so that an app downloads what its routes need.

``canet.pte`` holds every graph, the router, and what the smallest route needs. Beside it stand

* ``panel_e96.ptd``: the item table's columns up to width 96, for embeddings of 96 and wider;
* ``panel_h96.ptd``: the same of the classifier (the last columns are with the layers of their width);
* ``layers_h96_d4.ptd``: the blocks of width 96 that routes of depth 4 need besides those of the depth before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from canet_export.executorch.operators import Int8Embedding, Panels
from canet_export.graph import ROUTER_ENTRY
from canet_mobile.errors import CanetError
from canet_mobile.model.space import Route

SUFFIX = ".ptd"


def part_of(users: Collection[Route], routes: Collection[Route]) -> str | None:
    """The file for a constant that exactly these routes use; None: the program itself.

    Args:
        users: the routes that use it.
        routes: all that are exported.
    """
    widths = {route.hidden for route in users}
    hidden, depth = min(widths), min(route.depth for route in users)
    embedding = min(route.embedding for route in users)
    first = min(route.hidden for route in routes)
    if len(widths) == 1 and (hidden, depth) > (first, min(route.depth for route in routes)):
        return f"layers_h{hidden}_d{depth}"
    if hidden > first:
        return f"panel_h{hidden}"
    return f"panel_e{embedding}" if embedding > min(route.embedding for route in routes) else None


class Parts:
    """Which constants go where.

    Args:
        graphs: by entry, with named panels.
        routes: the exported routes.
    """

    def __init__(self, graphs: Mapping[str, nn.Module], routes: Collection[Route]) -> None:
        self.routes = {route.entry: route for route in routes}
        self.entries: dict[str, set[str]] = defaultdict(set)  # part -> entries that need it
        self._panels = self._tables(graphs)

    def _tables(self, graphs: Mapping[str, nn.Module]) -> dict[str, str]:
        users: dict[str, set[str]] = defaultdict(set)
        for entry, graph in graphs.items():
            if isinstance(table := getattr(graph, "table", None), Panels):
                for name, panel in table.named_children():
                    # Scales of int8 belong to all columns: one copy, in the program, serves all panels.
                    whole = isinstance(panel, Int8Embedding)
                    for kind in ("values",) if whole else ("values", "scale", "weight"):
                        users[f"_table_{name}_{kind}"].add(entry)
        return {name: part for name, entries in users.items() if (part := self._part(entries))}

    def _part(self, entries: set[str]) -> str | None:
        if ROUTER_ENTRY in entries:
            return None
        part = part_of([self.routes[entry] for entry in entries], self.routes.values())
        if part is not None:
            self.entries[part] |= entries
        return part

    def tag(self, node: Any) -> str | None:
        """Of a constant outside the delegates, by its placeholder: the part, or None for the program."""
        return next((part for name, part in self._panels.items() if node.name.endswith(name)), None)

    def move(self, edge: Any) -> None:
        """Move the delegates' constants of lowered methods into their parts.

        Args:
            edge: ExecuTorch's manager of them; each constant has a key made from its content.

        Raises:
            CanetError: this version of ExecuTorch keeps them elsewhere.
        """
        users: dict[str, set[str]] = defaultdict(set)
        try:
            store = edge._named_data_store
            inside, outside = store.pte_data, store.external_data
            for entry in edge.methods:
                for module in edge.exported_program(entry).graph_module.children():
                    for key in module.named_data_store_output.pte_data:
                        users[key].add(entry)
        except AttributeError as error:
            raise CanetError(
                f"this version of ExecuTorch cannot be told where constants go ({error})",
                fix="export without --split, or use a version in the range of pyproject.toml",
            ) from error
        for key, entries in users.items():
            part = self._part(entries)
            if part is not None:
                outside.setdefault(part, {})[key] = inside.pop(key)

    def files(self) -> dict[str, tuple[str, ...]]:
        """Every part's file, with the entries that need it in the order of the routes."""
        return {
            f"{part}{SUFFIX}": tuple(entry for entry in self.routes if entry in entries)
            for part, entries in sorted(self.entries.items())
        }
