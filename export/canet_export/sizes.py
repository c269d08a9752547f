"""Where a package's bytes are, and what sharing saves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from canet_mobile.package.manifest import Sizes

# Not stored by any target: zero points are zero.
UNSTORED = "zero_point"


def constants(graph: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor of a graph, with its path."""
    for path, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        if not path.endswith(UNSTORED):
            yield path, tensor


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes as files hold them: contiguous, little-endian."""
    array = tensor.detach().contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _part(path: str, is_router: bool) -> str:
    head = path.split(".", 1)[0]
    if head == "table":
        return "item_table"
    if is_router:
        return "router"
    return "classifier" if head == "classifier" else "layers"


def measure(graphs: Mapping[str, nn.Module], router: str, largest: nn.Module, total_bytes: int) -> Sizes:
    """Share out the bytes of a model file.

    Args:
        graphs: by entry, as they were exported.
        router: the router's entry.
        largest: the graph of the whole supernet, exported or not.
        total_bytes: size of the file.
    """
    parts = dict.fromkeys(("item_table", "classifier", "layers", "router"), 0)
    seen: set[tuple[bool, bytes]] = set()
    alone: dict[str, int] = {}
    for entry in [*(name for name in graphs if name != router), router]:
        alone[entry] = _own_bytes(graphs[entry])
        for path, tensor in constants(graphs[entry]):
            data = tensor_bytes(tensor)
            key = _stored(path, data)
            if key not in seen:
                seen.add(key)
                # A router with a table of its own meets no route's constant there.
                owns = entry == router and path.startswith("table")
                parts["router" if owns else _part(path, entry == router)] += len(data)
    graph_bytes = max(total_bytes - sum(parts.values()), 0)
    per_step = graph_bytes / sum(_steps(graph) for graph in graphs.values())
    return Sizes(
        total_bytes=total_bytes,
        **{f"{name}_bytes": size for name, size in parts.items()},
        graph_bytes=graph_bytes,
        full_model_alone_bytes=round(_own_bytes(largest) + per_step * _steps(largest)),
        separate_files_bytes=round(sum(alone.values()) + graph_bytes),
    )


def _own_bytes(graph: nn.Module) -> int:
    sizes = {}
    for path, tensor in constants(graph):
        data = tensor_bytes(tensor)
        sizes[_stored(path, data)] = len(data)
    return sum(sizes.values())


def _stored(path: str, data: bytes) -> tuple[bool, bytes]:
    """Looked-up tables and constants of delegates are two stores: equal bytes are shared in each."""
    return path.startswith("table"), hashlib.sha256(data).digest()


def _steps(graph: nn.Module) -> int:
    return len(getattr(graph, "blocks", ())) + 1
