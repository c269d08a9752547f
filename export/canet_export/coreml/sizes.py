"""Where the bytes of a .mlpackage are: every constant of weight.bin by the part that uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from canet_export.coreml.mlpackage import MANIFEST, files_of
from canet_export.graph import ROUTER_ENTRY
from canet_export.sizes import Sizes
from canet_mobile.replay.mil.model import MilModel, tensor_type

ALIGNMENT = 64  # of constants in weight.bin; also the bytes of its own header
PARTS = ("item_table", "classifier", "layers", "router")  # a constant of several is counted for the first


def uses(block: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every constant in use: (operation, its parameter, the ``const`` or ``constexpr_*`` operation)."""
    made = {}
    for operation in block.operations:
        if operation.type == "const" or operation.type.startswith("constexpr_"):
            made[operation.outputs[0].name] = operation
            continue
        for parameter, argument in operation.inputs.items():
            for binding in argument.arguments:
                if binding.name in made:
                    yield operation, parameter, made[binding.name]


def blob_offsets(operation: Any) -> list[int]:
    """Where the constants that a ``const`` or ``constexpr_*`` operation names stand in weight.bin."""
    values = list(operation.attributes.values())
    for argument in operation.inputs.values():
        values += [binding.value for binding in argument.arguments]
    return [v.blobFileValue.offset for v in values if v.WhichOneof("value") == "blobFileValue"]


def blobs_of(model: MilModel, function: str, router: bool, classes: int) -> dict[int, str]:
    """The constants of one function in weight.bin, by offset, and the part of the model they are.

    Args:
        model: an opened package.
        function: its name.
        router: whether it is the router.
        classes: V+1: a matrix or a bias of so many rows that is not looked up is the classifier's.
    """
    found: dict[int, str] = {}
    for operation, parameter, source in uses(model.block(function)):
        shape = tensor_type(source.outputs[0].type)[1]
        part = "layers"
        if router:
            part = "router"
        elif operation.type == "gather" and parameter == "x":
            part = "item_table"
        elif shape[:1] == (classes,):
            part = "classifier"
        for offset in blob_offsets(source):
            found[offset] = _first(part, found.get(offset))
    return found


def _first(part: str, other: str | None) -> str:
    return part if other is None else min(part, other, key=PARTS.index)


def extent(model: MilModel, offset: int) -> int:
    """Bytes of a constant in weight.bin: its header, its numbers and the gap to the next one."""
    blob = model.blob(offset)
    return blob.data - offset + -(-blob.size // ALIGNMENT) * ALIGNMENT


def alone_bytes(model: MilModel, function: str) -> int:
    """What a package of this one function would take."""
    offsets = {o for _, _, source in uses(model.block(function)) for o in blob_offsets(source)}
    graph = type(model.spec)()
    graph.CopyFrom(model.spec)
    for name in set(model.functions) - {function}:
        del graph.mlProgram.functions[name]
    kept = [f for f in graph.description.functions if f.name == function]
    del graph.description.functions[:]
    graph.description.functions.extend(kept)
    manifest = (model.path / MANIFEST).stat().st_size
    header = ALIGNMENT if offsets else 0
    return header + sum(extent(model, o) for o in offsets) + graph.ByteSize() + manifest


def measure(files: Sequence[MilModel], classes: int, full_model_alone_bytes: int) -> Sizes:
    """The bytes of the written packages (one, or one per entry), by part; ``graph_bytes`` is the rest."""
    parts = dict.fromkeys(PARTS, 0)
    total, separate = 0, 0
    for model in files:
        blobs: dict[int, str] = {}
        for name in model.functions:
            router = ROUTER_ENTRY in (name, model.path.stem)
            for offset, part in blobs_of(model, name, router, classes).items():
                blobs[offset] = _first(part, blobs.get(offset))
            separate += alone_bytes(model, name)
        for offset, part in blobs.items():
            parts[part] += extent(model, offset)
        total += package_bytes(model.path)
    return Sizes(
        total_bytes=total,
        **{f"{part}_bytes": size for part, size in parts.items()},
        graph_bytes=total - sum(parts.values()),
        full_model_alone_bytes=full_model_alone_bytes,
        separate_files_bytes=separate,
    )


def package_bytes(path: Path) -> int:
    """Bytes of all files of a .mlpackage."""
    return sum((path / name).stat().st_size for name in files_of(path))
