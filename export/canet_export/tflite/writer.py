"""Writing the flatbuffer: equal tables once, constants behind it, and a root per entry.

A flatbuffer is a graph, not a tree: any number of tables may refer to the same one. Converters do not use
that, and repeat quantization tables (12 bytes per item and route) as often as they are needed.

Besides the ordinary root, which holds every signature, the file has one root per entry over the very same
tables. A runtime that is given such a root instantiates, and packs the weights of, that entry alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flatbuffers import Builder

IDENTIFIER = b"TFL3"
ALIGNMENT = 64
INLINE = 16  # bytes up to which a buffer stays inside the flatbuffer
DATA_OFFSET_SLOT, SIZE_SLOT = 6, 8  # of the schema's Buffer: `offset` and `size`
METADATA = "TFLITE_METADATA"
PLACEHOLDER = 1 << 20  # a scalar of 0 would not be stored


class Once:
    """A table of the object interface that is packed the first time it is asked for, and shared then."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self._offset: int | None = None

    def Pack(self, builder: Builder) -> int:
        """The offset of the packed table."""
        if self._offset is None:
            self._offset = self.table.Pack(builder)
        return self._offset


class Vector:
    """A numpy vector, packed like :class:`Once`."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def Pack(self, builder: Builder) -> int:
        """The offset of the packed vector."""
        return builder.CreateNumpyVector(self.array)


class Quantization:
    """A ``QuantizationParametersT`` whose vectors may be those of other tables: zero points are all zeros."""

    def __init__(self, table: Any, shared: Shared) -> None:
        self.scale, self.zero_point = (
            None if array is None else shared(Vector(array)) for array in (table.scale, table.zeroPoint)
        )
        self.details_type, self.details = table.detailsType, shared(table.details)

    def Pack(self, builder: Builder) -> int:
        """The offset of the packed table; quantized are rows, axis 0."""
        from ai_edge_litert import schema_py_generated as schema

        scale, zero_point, details = (
            None if part is None else part.Pack(builder)
            for part in (self.scale, self.zero_point, self.details)
        )
        schema.QuantizationParametersStart(builder)
        if scale is not None and zero_point is not None:
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, zero_point)
        if details is not None:
            schema.QuantizationParametersAddDetailsType(builder, self.details_type)
            schema.QuantizationParametersAddDetails(builder, details)
        return schema.QuantizationParametersEnd(builder)


class Shared:
    """Wraps tables in :class:`Once`, equal ones in the same."""

    def __init__(self) -> None:
        self._known: dict[Any, Once] = {}

    def __call__(self, table: Any) -> Any:
        if table is None or isinstance(table, Once):
            return table
        return self._known.setdefault(_content(table), Once(table))


def _content(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(_content, value))
    if isinstance(value, Once):
        return id(value)
    if hasattr(value, "__dict__"):
        return type(value), tuple(_content(field) for _, field in sorted(vars(value).items()))
    return value


def share_tables(model: Any) -> None:
    """Drop inner names, and let equal tensors, operators and their tables be the same object."""
    shared = Shared()
    for subgraph in model.subgraphs:
        ends = {*map(int, subgraph.inputs), *map(int, subgraph.outputs)}
        for index, tensor in enumerate(subgraph.tensors):
            if index not in ends:
                tensor.name = None
            tensor.shapeSignature = None
            table = tensor.quantization
            is_empty = table is None or (table.scale is None and table.details is None)
            tensor.quantization = None if is_empty else shared(Quantization(table, shared))
        subgraph.tensors = [shared(tensor) for tensor in subgraph.tensors]
        for operator in subgraph.operators:
            operator.builtinOptions = shared(operator.builtinOptions)
            operator.builtinOptions2 = shared(operator.builtinOptions2)
        subgraph.operators = [shared(operator) for operator in subgraph.operators]


def serialize(model: Any, buffers: list[bytes], metadata: bytes) -> tuple[bytes, dict[str, int]]:
    """The bytes of the file, and where the root of each entry is.

    Args:
        model: ``ModelT`` whose tables are shared; its tensors name the ``buffers``.
        buffers: number 0 is empty.
        metadata: of the ``TFLITE_METADATA`` buffer; it stays inline, where its readers look for it.

    Returns:
        Content, and byte offset of the root table by entry. Written as a little-endian uint32 over the first
        four bytes, such an offset makes the file one of that entry alone.
    """
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    builder = Builder(1 << 22)
    held = []
    for data in buffers:
        buffer = schema.BufferT()
        if len(data) > INLINE:
            buffer.offset = buffer.size = PLACEHOLDER
        elif data:
            buffer.data = np.frombuffer(data, np.uint8)
        held.append(buffer)
    described = schema.MetadataT()
    described.name, described.buffer = METADATA, len(held)
    held.append(schema.BufferT(data=np.frombuffer(metadata, np.uint8)))

    def vector(tables: list[Any]) -> int:
        offsets = [table.Pack(builder) for table in tables]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    parts = vector(held), vector(model.operatorCodes), vector([described])
    subgraphs = [Once(subgraph) for subgraph in model.subgraphs]
    signatures = {signature.subgraphIndex: signature for signature in model.signatureDefs}

    def root(indexes: list[int]) -> int:
        defs = []
        for place, index in enumerate(indexes):
            signatures[index].subgraphIndex = place
            defs.append(signatures[index])
        inside, signed = vector([subgraphs[index] for index in indexes]), vector(defs)
        return _pack_model(schema, builder, model.version, parts, inside, signed)

    names = {index: signature.signatureKey for index, signature in signatures.items()}
    roots = {_text(names[index]): root([index]) for index in range(len(subgraphs))}
    builder.Finish(root(list(range(len(subgraphs)))), file_identifier=IDENTIFIER)
    head = bytearray(builder.Output())
    positions = {entry: len(head) - offset for entry, offset in roots.items()}
    return _with_constants(head, buffers, schema.Model.GetRootAs), positions


def _pack_model(
    schema: Any,
    builder: Builder,
    version: int,
    parts: tuple[int, int, int],
    subgraphs: int,
    signatures: int,
) -> int:
    buffers, codes, metadata = parts
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, version)
    schema.ModelAddOperatorCodes(builder, codes)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    schema.ModelAddMetadata(builder, metadata)
    schema.ModelAddSignatureDefs(builder, signatures)
    return schema.ModelEnd(builder)


def _with_constants(head: bytearray, buffers: list[bytes], root_of: Callable[..., Any]) -> bytes:
    """Append the constants that are not inline, and tell the flatbuffer where they are."""
    model = root_of(head, 0)
    places = []
    end = len(head)
    for number, data in enumerate(buffers):
        if len(data) > INLINE:
            start = end + -end % ALIGNMENT
            table = model.Buffers(number)._tab
            for slot, value in ((DATA_OFFSET_SLOT, start), (SIZE_SLOT, len(data))):
                struct.pack_into("<Q", head, table.Pos + table.Offset(slot), value)
            places.append((start, data))
            end = start + len(data)
    out = bytearray(end + ALIGNMENT)  # vector code may read a little past a constant
    out[: len(head)] = head
    for start, data in places:
        out[start : start + len(data)] = data
    return bytes(out)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
