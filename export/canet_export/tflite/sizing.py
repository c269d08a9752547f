"""Where the bytes of a .tflite are: constants as it stores them, each once, and the graphs around them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job
from canet_export.sizes import Sizes
from canet_export.slices import Leaf, Slice
from canet_export.tflite.graphs import tflite_graphs
from canet_export.tflite.impose import is_half
from canet_mobile.model.integers import GROUP, Quantized

PARTS = {"table": "item_table", "classifier": "classifier"}


@dataclass(frozen=True)
class Stored:
    """A constant of an entry: what it is equal to, the part of the file that it belongs to, and its bytes."""

    key: object
    part: str
    bytes: int


def stored_constants(job: Job, entry: str, graph: nn.Module) -> Iterator[Stored]:
    """Every constant of an entry as the file holds it; those with the same key stand there once."""
    tensors = {} if job.integers is None else job.integers.tensors
    for path, tensor in graph.named_parameters():
        head = path.partition(".")[0]
        is_router = entry == ROUTER_ENTRY
        # A router with a table of its own meets no route's constant there.
        part = "router" if is_router else PARTS.get(head, "layers")
        owner = graph.get_submodule(path.rpartition(".")[0])
        if path.endswith("weight") and isinstance(owner, Leaf):
            source = owner.source
            if source.name in tensors:
                yield from _integers(source, tensors[source.name], tensor, part)
            else:
                yield Stored(source, part, (2 if is_half(job, owner, "weight") else 4) * tensor.numel())
        else:
            digest = hashlib.sha256(tensor.detach().numpy().tobytes()).digest()
            yield Stored(digest, part, 4 * tensor.numel())


def _integers(source: Slice, full: Quantized, tensor: Tensor, part: str) -> Iterator[Stored]:
    yield Stored(source, part, tensor.numel() * full.bits // 8)
    groups = (source.stop - source.start) // GROUP
    if full.bits == 4 and groups > 1:
        yield Stored(("halves", source), part, 2 * groups * source.rows)
        return
    columns = source.start if full.bits == 4 else 0
    yield Stored(("scales", source.name, source.part, source.rows, columns), part, 4 * source.rows)
    yield Stored(("zero points", source.rows), part, 8 * source.rows)


def file_sizes(job: Job, graphs: Mapping[str, nn.Module], total_bytes: int) -> Sizes:
    """Share out the bytes of the file.

    Args:
        job: what was written.
        graphs: by entry, as they were written.
        total_bytes: size of the file.
    """
    largest = job.canet.space.largest
    whole = graphs.get(largest.entry)
    if whole is None:
        whole = tflite_graphs(job, routes=[largest])[largest.entry]
    parts = dict.fromkeys(("item_table", "classifier", "layers", "router"), 0)
    seen = set()
    separate = 0
    for entry in [*(name for name in graphs if name != ROUTER_ENTRY), ROUTER_ENTRY]:
        constants = _once(stored_constants(job, entry, graphs[entry]))
        separate += sum(each.bytes for each in constants.values())
        for key, each in constants.items():
            if key not in seen:
                seen.add(key)
                parts[each.part] += each.bytes
    graph_bytes = max(total_bytes - sum(parts.values()), 0)
    alone = _once(stored_constants(job, largest.entry, whole)).values()
    per_step = graph_bytes / sum(map(_steps, graphs.values()))
    return Sizes(
        total_bytes=total_bytes,
        **{f"{name}_bytes": size for name, size in parts.items()},
        graph_bytes=graph_bytes,
        full_model_alone_bytes=round(sum(each.bytes for each in alone) + per_step * _steps(whole)),
        separate_files_bytes=round(separate + graph_bytes),
    )


def _once(constants: Iterable[Stored]) -> dict[object, Stored]:
    """By key: a tied classifier's panels count as the item table's."""
    found: dict[object, Stored] = {}
    for each in constants:
        found.setdefault(each.key, each)
    return found


def _steps(graph: nn.Module) -> int:
    return len(getattr(graph, "blocks", ())) + 1
