"""TFLite metadata: what tflite-support and Android Studio show of a model, written with flatbuffers alone.

The tables are those of ``metadata_schema.fbs`` (file identifier M001), whose generated code is not on any
package index that this project can depend on: field numbers below are the schema's.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job
from canet_mobile import __version__
from canet_mobile.model.points import POINT_INPUT, POINTS

if TYPE_CHECKING:
    from flatbuffers import Builder

IDENTIFIER = b"M001"
MINIMUM_PARSER = "1.0.0"
ITEMS_FILE = "items.txt"
VALUE_LABELS = 3  # AssociatedFileType.TENSOR_VALUE_LABELS: line i names the value i
PADDING = "[padding]"


@dataclass(frozen=True)
class _Tensor:
    name: str
    description: str
    labels: bool = False


def metadata_buffer(job: Job, entries: tuple[str, ...]) -> bytes:
    """The ``TFLITE_METADATA`` buffer: name, description, and every entry's tensors."""
    from flatbuffers import Builder

    builder = Builder(1024)
    length, items = job.canet.supernet.config.length, job.canet.supernet.config.items
    has_labels = bool(job.item_labels)
    history = _Tensor(
        "seq",
        f"item indexes 1..{items}, oldest first, padded with 0 on the left, int32 [1, {length}]",
        has_labels,
    )
    names = ", ".join(f"{number} {name}" for number, name in enumerate(POINTS))
    point = _Tensor(POINT_INPUT, f"the operating point: {names}, int32 [1]")
    router = (_Tensor("route", "the route id: the entry to call next, int32 [1]"),)
    route = (
        _Tensor("scores", f"of the best items, descending, float32 [1, {job.k}]"),
        _Tensor("ids", f"their item indexes, int32 [1, {job.k}]", has_labels),
    )
    subgraphs = []
    for entry in entries:
        is_router = entry == ROUTER_ENTRY
        said = "names the route of a history" if is_router else "recommends by one submodel"
        given = (history, point) if is_router else (history,)
        inputs = _vector(builder, [_tensor(builder, each) for each in given])
        outputs = _vector(builder, [_tensor(builder, each) for each in (router if is_router else route)])
        subgraphs.append(
            _table(builder, 7, {0: _string(builder, entry), 1: _string(builder, said), 2: inputs, 3: outputs})
        )
    fields = {
        0: _string(builder, "canet-mobile"),
        1: _string(
            builder,
            f"Sequential recommender: a router and {len(entries) - 1} submodels that share their weights. "
            f"Run the signature {ROUTER_ENTRY!r}, then the signature of the route it names. seen={job.seen}.",
        ),
        2: _string(builder, __version__),
        3: _vector(builder, subgraphs),
        7: _string(builder, MINIMUM_PARSER),
    }
    builder.Finish(_table(builder, 8, fields), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def append_labels(path: Path, labels: tuple[str, ...]) -> None:
    """Add the associated file: line i is the item with index i, line 0 stands for padding.

    It is a zip behind the model, as tflite-support looks for it; the model's own bytes do not move.
    """
    lines = [PADDING, *(label.replace("\n", " ").replace("\r", " ") for label in labels)]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(ITEMS_FILE), "\n".join(lines) + "\n")


def _tensor(builder: Builder, tensor: _Tensor) -> int:
    fields = {0: _string(builder, tensor.name), 1: _string(builder, tensor.description)}
    if tensor.labels:
        name, said = _string(builder, ITEMS_FILE), _string(builder, "line i is the item with index i")
        builder.StartObject(5)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUOffsetTRelativeSlot(1, said, 0)
        builder.PrependInt8Slot(2, VALUE_LABELS, 0)
        fields[6] = _vector(builder, [builder.EndObject()])
    return _table(builder, 7, fields)


def _string(builder: Builder, text: str) -> int:
    return builder.CreateString(text)


def _vector(builder: Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _table(builder: Builder, slots: int, fields: dict[int, int]) -> int:
    builder.StartObject(slots)
    for slot, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return builder.EndObject()
