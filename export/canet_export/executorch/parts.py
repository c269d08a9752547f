"""``--split``: constants in files of their own (``.ptd``), so that an app downloads what its routes need.

``canet.pte`` holds every graph, the router, and what the smallest route needs. Beside it stand

* ``panel_e96.ptd``: the item table's columns up to width 96, for embeddings of 96 and wider;
* ``panel_h96.ptd``: the same of the classifier (the last columns are with the layers of their width);
* ``layers_h96_d4.ptd``: the blocks of width 96 that routes of depth 4 need besides those of the depth before.

A program keeps what its operators look up and what its delegates multiply by in two stores, so a tied
item table stands in it twice. A part holds equal data once, whatever their names: here a tied table is stored
once, in ``table_0_64.ptd`` and so on, one for each panel.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from canet_export.executorch.operators import Int8Embedding, Panels
from canet_export.graph import ROUTER_ENTRY
from canet_export.sizes import constants, tensor_bytes
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
        edge: ExecuTorch's manager of the lowered methods; its delegates' constants are moved at once.

    Raises:
        CanetError: this version of ExecuTorch keeps the constants elsewhere.
    """

    def __init__(self, graphs: Mapping[str, nn.Module], routes: Collection[Route], edge: Any) -> None:
        self.routes = {route.entry: route for route in routes}
        self.entries: dict[str, set[str]] = defaultdict(set)  # part -> entries that need it
        tables = list(_table_constants(graphs))
        keys = _delegate_keys(edge)
        shared: dict[str, str] = {}  # digest of a table's constant that delegates use as well -> part
        self.once = 0  # bytes of those
        for constant in tables:
            if constant.digest not in shared and {constant.digest, f"scale_{constant.digest}"} & keys.keys():
                shared[constant.digest] = f"table_{constant.columns}"
                self.once += constant.size
        self._panels: dict[str, str] = {}  # end of a placeholder's name -> part
        for constant in tables:
            part = shared.get(constant.digest)
            if part is not None:
                self.entries[part] |= constant.entries
            elif not constant.is_common:
                part = self._part(constant.entries)
            if part is not None:
                self._panels[constant.name] = part
        store = edge._named_data_store
        for key, entries in keys.items():
            part = shared.get(key.removeprefix("scale_"))
            if part is not None:
                self.entries[part] |= entries
            else:
                part = self._part(entries)
            if part is not None:
                store.external_data.setdefault(part, {})[key] = store.pte_data.pop(key)

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

    def files(self) -> dict[str, tuple[str, ...]]:
        """Every part's file, with the entries that need it in the order of the routes."""
        order = [ROUTER_ENTRY, *self.routes]
        return {
            f"{part}{SUFFIX}": tuple(entry for entry in order if entry in entries)
            for part, entries in sorted(self.entries.items())
        }


@dataclass
class _TableConstant:
    """A constant of an item table: how its placeholders' names end, and who uses it.

    Args:
        name: ``_table_items_0_64_values``.
        columns: ``0_64``.
        digest: SHA-256 of its bytes, as XNNPACK's keys are made.
        size: number of its bytes.
        is_common: one copy serves all panels: a scale of int8.
        entries: the entries that look it up.
    """

    name: str
    columns: str
    digest: str
    size: int
    is_common: bool
    entries: set[str]


def _table_constants(graphs: Mapping[str, nn.Module]) -> Iterator[_TableConstant]:
    """The smallest columns first."""
    users: dict[str, set[str]] = defaultdict(set)
    panels: dict[str, nn.Module] = {}
    for entry, graph in graphs.items():
        if isinstance(table := getattr(graph, "table", None), Panels):
            for name, panel in table.named_children():
                users[name].add(entry)
                panels[name] = panel
    for name, panel in sorted(panels.items(), key=lambda item: int(item[0].split("_")[1])):
        for kind, tensor in constants(panel):
            data = tensor_bytes(tensor)
            yield _TableConstant(
                name=f"_table_{name}_{kind}",
                columns=name.partition("_")[2],
                digest=hashlib.sha256(data).hexdigest(),
                size=len(data),
                is_common=isinstance(panel, Int8Embedding) and kind == "scale",
                entries=users[name],
            )


def _delegate_keys(edge: Any) -> dict[str, set[str]]:
    """Key of each of the delegates' constants (made from its content) -> the entries that use it."""
    users: dict[str, set[str]] = defaultdict(set)
    try:
        inside, _ = edge._named_data_store.pte_data, edge._named_data_store.external_data
        for entry in edge.methods:
            for module in edge.exported_program(entry).graph_module.children():
                for key in module.named_data_store_output.pte_data:
                    users[key].add(entry)
    except AttributeError as error:
        raise CanetError(
            f"this version of ExecuTorch cannot be told where constants go ({error})",
            fix="export without --split, or use a version in the range of pyproject.toml",
        ) from error
    return {key: entries for key, entries in users.items() if key in inside}
