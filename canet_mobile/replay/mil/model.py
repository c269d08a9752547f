"""Reading a .mlpackage: functions from its protobuf, constants from weight.bin."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import CanetError

HEADER = struct.Struct("<IIQQQ")  # sentinel, data type, bytes, offset of the data, padding bits
SENTINEL = 0xDEADBEEF
# MIL.proto's DataType -> (name, numpy's type). int4 is stored in nibbles, the first number in the lower one.
TYPES: dict[int, tuple[str, Any]] = {
    1: ("bool", np.bool_),
    2: ("string", None),
    10: ("fp16", np.dtype("<f2")),
    11: ("fp32", np.dtype("<f4")),
    21: ("int8", np.int8),
    23: ("int32", np.dtype("<i4")),
    25: ("int4", np.int8),
    31: ("uint8", np.uint8),
}
# The types that weight.bin itself names (MILBlob's BlobDataType).
BLOB_TYPES = {1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 8: "int4", 14: "int32"}


class MilError(CanetError):
    """A .mlpackage that cannot be read or run; the message says which file, function and operation."""


@dataclass(frozen=True)
class Blob:
    """A constant in weight.bin.

    Args:
        dtype: as its header says.
        start: where its header stands.
        data: where its numbers stand.
        size: of the numbers, in bytes.
    """

    dtype: str
    start: int
    data: int
    size: int


@dataclass(frozen=True, eq=False)
class MilModel:
    """An opened .mlpackage.

    Args:
        path: the package.
        spec: its protobuf, a ``Model``.
        weights: weight.bin, mapped; empty where there is none.
    """

    path: Path
    spec: Any
    weights: NDArray[np.uint8]
    _values: dict[Any, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def functions(self) -> dict[str, Any]:
        """The functions by name."""
        return dict(self.spec.mlProgram.functions)

    def block(self, name: str) -> Any:
        """The operations of a function.

        Raises:
            MilError: there is no such function, or it has several specializations.
        """
        function = self.spec.mlProgram.functions.get(name)
        if function is None or len(function.block_specializations) != 1:
            raise MilError(f"holds no function {name!r} with one body", where=self.path)
        return next(iter(function.block_specializations.values()))

    def blob(self, offset: int) -> Blob:
        """The constant whose header stands at ``offset``.

        Raises:
            MilError: none does, or it ends beyond the file.
        """
        if offset + HEADER.size > len(self.weights):
            raise MilError(f"weight.bin ends before the constant at {offset}", where=self.path)
        mark, dtype, size, data, _ = HEADER.unpack(self.weights[offset : offset + HEADER.size].tobytes())
        if mark != SENTINEL or dtype not in BLOB_TYPES or data + size > len(self.weights):
            raise MilError(f"weight.bin holds no whole constant at {offset}", where=self.path)
        return Blob(BLOB_TYPES[dtype], offset, data, size)

    def value(self, value: Any) -> Any:
        """A constant of the protobuf: a str, or an array of its declared shape (int4 as int8, read-only).

        Raises:
            MilError: its type is unknown, or its bytes are not as many as its shape needs.
        """
        dtype, shape = tensor_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            blob = self.blob(value.blobFileValue.offset)
            key = (blob.start, shape)
            if key not in self._values:
                if blob.dtype != dtype:
                    raise MilError(
                        f"weight.bin holds {blob.dtype} at {blob.start}, declared is {dtype}", where=self.path
                    )
                data = self.weights[blob.data : blob.data + blob.size]
                self._values[key] = self._decoded(data, dtype, shape)
            return self._values[key]
        return self._immediate(value.immediateValue.tensor, dtype, shape)

    def _immediate(self, tensor: Any, dtype: str, shape: tuple[int, ...]) -> Any:
        kind = tensor.WhichOneof("value")
        held: Any = getattr(tensor, kind).values if kind else []
        if dtype == "string":
            return held[0]
        if kind == "bytes":
            return self._decoded(np.frombuffer(held, np.uint8), dtype, shape)
        array = np.array(list(held), _numpy(dtype))
        if array.size != int(np.prod(shape)):
            raise MilError(
                f"a constant holds {array.size} numbers, declared is {list(shape)}", where=self.path
            )
        return array.reshape(shape)

    def _decoded(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape))
        needed = (count + 1) // 2 if dtype == "int4" else count * _numpy(dtype).itemsize
        if len(data) != needed:
            raise MilError(
                f"a constant {dtype} {list(shape)} needs {needed} bytes, there are {len(data)}",
                where=self.path,
            )
        if dtype != "int4":
            return data.view(_numpy(dtype)).reshape(shape)
        nibbles = np.stack([data & 15, data >> 4], -1).reshape(-1)[:count].astype(np.int8)
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(shape)


def _numpy(dtype: str) -> np.dtype[Any]:
    return next(np.dtype(found) for name, found in TYPES.values() if name == dtype)


def tensor_type(value_type: Any) -> tuple[str, tuple[int, ...]]:
    """Data type and shape of a value's declared type.

    Raises:
        MilError: the type is not among those in use, or the shape is not static.
    """
    if value_type.WhichOneof("type") != "tensorType":
        raise MilError(f"a value of type {value_type.WhichOneof('type')} is not known")
    tensor = value_type.tensorType
    if tensor.dataType not in TYPES:
        raise MilError(f"the data type {tensor.dataType} of MIL is not known")
    if any(d.WhichOneof("dimension") != "constant" for d in tensor.dimensions):
        raise MilError("a shape is not static")
    return TYPES[tensor.dataType][0], tuple(d.constant.size for d in tensor.dimensions)


def open_mlpackage(path: Path) -> MilModel:
    """Open a .mlpackage. Needs coremltools for the protobuf definitions, and nothing of Core ML.

    Raises:
        MilError: a file is missing or damaged.
        CanetError: coremltools is not installed.
    """
    model_pb2 = protobuf()
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        entries = manifest["itemInfoEntries"]
        model_file = _inside(path, entries[manifest["rootModelIdentifier"]]["path"])
        folder = next((e["path"] for e in entries.values() if e["name"] == "weights"), None)
        spec = model_pb2.Model()
        spec.ParseFromString(model_file.read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MilError(f"is no readable .mlpackage ({error})", where=path) from error
    except Exception as error:  # protobuf's own error, which has no public base class
        if type(error).__name__ != "DecodeError":
            raise
        raise MilError("its model.mlmodel is damaged", where=path) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise MilError(f"is a {spec.WhichOneof('Type')}, not an mlProgram", where=path)
    weights = np.zeros(0, np.uint8)
    file = None if folder is None else _inside(path, f"{folder}/weight.bin")
    if file is not None and file.is_file():
        weights = np.memmap(file, np.uint8, "r") if file.stat().st_size else weights
    return MilModel(path, spec, weights)


def _inside(package: Path, name: str) -> Path:
    """A file that the package's own manifest names, links followed.

    Raises:
        MilError: it lies outside of the package's Data folder, or is a device or a pipe.
    """
    data = (package / "Data").resolve()
    file = (data / name).resolve()
    if not file.is_relative_to(data) or (file.exists() and not file.is_file()):
        raise MilError(
            f"Manifest.json names {name!r}, which is no plain file inside its Data folder",
            where=package,
            fix="export or copy the package again",
        )
    return file


def protobuf() -> Any:
    """The protobuf definitions of Core ML models.

    Raises:
        CanetError: coremltools is not installed.
    """
    from canet_mobile.machine import quiet

    try:
        with quiet():
            from coremltools.proto import Model_pb2
    except ImportError as error:
        raise CanetError(
            f"reading a .mlpackage needs the protobuf definitions of coremltools ({error})",
            fix="pip install 'canet-mobile[coreml]'",
        ) from error
    return Model_pb2
