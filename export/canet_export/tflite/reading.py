"""Reading a .tflite by its structure: which constants its matrices, look-ups, sums and products hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Constant:
    """A constant as the file holds it.

    Args:
        values: int8, float16, float32 or int32, in the tensor's shape.
        scale: of integers, float32: one per row, or [rows, blocks]; None for floats.
        zero_points: of integers with a scale per row.
        place: where it stands in the file; constants at the same place are the same.
    """

    values: Array
    scale: Array | None
    zero_points: Array | None
    place: tuple[int, int]


@dataclass(frozen=True)
class Operation:
    """An operator: its name in the schema, its constant inputs by position, and all tensors by number."""

    kind: str
    constants: dict[int, Constant]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_signatures(path: Path) -> dict[str, list[Operation]]:
    """The operators of every signature, in the order in which they run.

    Raises:
        ValueError: it is no TFLite file, or an offset in it leads out of it.
    """
    from ai_edge_litert import schema_py_generated as schema

    raw = np.fromfile(path, np.uint8)
    if len(raw) < 8 or raw[4:8].tobytes() != b"TFL3":
        raise ValueError("no TFLite file")
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types: dict[int, np.dtype] = {
        schema.TensorType.INT8: np.dtype("i1"),
        schema.TensorType.INT16: np.dtype("<f2"),  # halves on their way to a BITCAST
        schema.TensorType.INT32: np.dtype("<i4"),
        schema.TensorType.INT64: np.dtype("<i8"),
        schema.TensorType.FLOAT16: np.dtype("<f2"),
        schema.TensorType.FLOAT32: np.dtype("<f4"),
        schema.TensorType.BOOL: np.dtype("?"),
    }
    try:
        model = schema.Model.GetRootAs(raw, 0)
        codes = []
        for index in range(model.OperatorCodesLength()):
            code = model.OperatorCodes(index)
            codes.append(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
        reader = _Reader(schema, raw, model, types, codes)
        signatures = (model.SignatureDefs(index) for index in range(model.SignatureDefsLength()))
        return {
            signature.SignatureKey().decode(): list(reader.operations(signature.SubgraphIndex()))
            for signature in signatures
        }
    except ValueError:
        raise
    except Exception as error:  # a damaged flatbuffer fails in any way
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def unpacked(data: Array) -> Array:
    """4-bit integers as int8: the low half of each byte, then the high one."""
    halves = np.stack([data & 15, data >> 4], -1).reshape(-1).astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


class _Reader:
    def __init__(
        self, schema: Any, raw: Array, model: Any, types: dict[int, np.dtype], codes: list[str]
    ) -> None:
        self.schema, self.raw, self.model, self.types, self.codes = schema, raw, model, types, codes

    def operations(self, index: int) -> Iterator[Operation]:
        subgraph = self.model.Subgraphs(index)
        held: dict[int, Constant] = {}
        for number in range(subgraph.TensorsLength()):
            constant = self.constant(subgraph, subgraph.Tensors(number))
            if constant is not None:
                held[number] = constant
        for number in range(subgraph.OperatorsLength()):
            operator = subgraph.Operators(number)
            kind = self.codes[operator.OpcodeIndex()]
            inputs, outputs = (
                tuple(operator.InputsAsNumpy().tolist()),
                tuple(operator.OutputsAsNumpy().tolist()),
            )
            if kind == "DEQUANTIZE" and inputs[0] in held:
                held[outputs[0]] = held[inputs[0]]  # halves, that the runtime widens once
            else:
                found = {position: held[each] for position, each in enumerate(inputs) if each in held}
                yield Operation(kind, found, inputs, outputs)

    def constant(self, subgraph: Any, tensor: Any) -> Constant | None:
        data, place = self.bytes_of(self.model.Buffers(tensor.Buffer()))
        if not place[1]:
            return None
        shape = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
        kind = self.types.get(tensor.Type())
        values = (unpacked(data) if kind is None else data.view(kind)).reshape(shape)
        table = tensor.Quantization()
        if table is not None and table.Details() is not None:
            blocks = self.schema.BlockwiseQuantization()
            blocks.Init(table.Details().Bytes, table.Details().Pos)
            scales = self.constant(subgraph, subgraph.Tensors(blocks.Scales()))
            if scales is None or blocks.BlockSize() * scales.values.shape[1] != shape[1]:
                raise ValueError(f"a matrix {shape} has no scales for blocks of {blocks.BlockSize()}")
            return Constant(values, scales.values.astype(np.float32), None, place)
        if table is None or not table.ScaleLength():
            return Constant(values, None, None, place)
        if table.QuantizedDimension() != 0:
            raise ValueError(
                f"a tensor is quantized along axis {table.QuantizedDimension()}, not along its rows"
            )
        return Constant(values, table.ScaleAsNumpy(), table.ZeroPointAsNumpy(), place)

    def bytes_of(self, buffer: Any) -> tuple[Array, tuple[int, int]]:
        """The bytes of a buffer, inline or behind the flatbuffer, and their place in the file."""
        size = buffer.DataLength()
        if size:
            start = buffer._tab.Vector(buffer._tab.Offset(4))
        else:
            start, size = buffer.Offset(), buffer.Size()
        if start + size > len(self.raw):
            raise ValueError(f"a buffer of {size} bytes at {start} leads out of the file")
        return self.raw[start : start + size], (start, size)
