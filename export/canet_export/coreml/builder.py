"""A function under construction, and the constants that the functions of a file share by name.

coremltools stores a constant again for every function unless told otherwise. Here every constant has a name
of its own, made from the full tensor and the slice, and functions that ask for the same name hold the same
bytes: nothing is compared, and nothing that merely looks alike is merged.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_export.job import Job
from canet_export.slices import Slice
from canet_mobile.model.integers import Quantized, parameters

Precision = Literal["fp16", "fp32"]
FLOATS: dict[str, type[np.floating]] = {"fp16": np.float16, "fp32": np.float32}
Var = Any  # coremltools' variable, which it does not type


class Store:
    """A model's numbers, for all functions of one file.

    Args:
        job: its reference holds the very numbers.
        kit: of :func:`canet_export.coreml.toolkit.toolkit`.
        shared: the file is for iOS 18 and holds all functions; else it is for iOS 17 and holds one, integers
            become ``constexpr_affine_dequantize``, and int4 is impossible.
    """

    def __init__(self, job: Job, kit: SimpleNamespace, *, shared: bool) -> None:
        self.job, self.kit, self.shared = job, kit, shared
        self.full = parameters(job.reference)
        self.integers = {} if job.integers is None else job.integers.tensors
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, key: str, tensor: Tensor, dtype: Any) -> NDArray[Any]:
        """The bytes stored under a name; made once."""
        if key not in self._arrays:
            self._arrays[key] = np.ascontiguousarray(tensor.detach().numpy()).astype(dtype)
        return self._arrays[key]

    def vector(self, name: str, size: int, part: int | None = None) -> Tensor:
        """The first ``size`` numbers of a vector, or of row ``part`` of a matrix."""
        return (self.full[name] if part is None else self.full[name][part])[:size]

    def table_precision(self, name: str) -> Precision:
        """How an item table in floats is stored: as exactly as PyTorch holds it, for the router's sake."""
        return "fp16" if self.job.quantization == "fp16" else "fp32"


class Body:
    """One function of a program under construction; must be used inside its ``with`` block.

    Args:
        store: the numbers.
        precision: what the function computes in.
    """

    def __init__(self, store: Store, precision: Precision) -> None:
        self.store, self.precision = store, precision
        self.mb = store.kit.mb
        self._small: dict[str, Var] = {}

    def op(self, kind: str, name: str, **inputs: Any) -> Any:
        """Add an operation. Plain numbers, lists and strings become constants, equal ones the same one."""
        given = {key: value if _is_var(value) else self.small(value) for key, value in inputs.items()}
        return getattr(self.mb, kind)(**given, name=name)

    def small(self, value: Any) -> Var:
        """A constant that is a parameter of operations: int, bool, str, float16/32, or a list of ints."""
        key = f"{type(value).__name__} {value!r}"
        if key not in self._small:
            val = np.array(value, np.int32) if isinstance(value, list) else value
            self._small[key] = self.mb.const(val=val, name=f"c{len(self._small)}")
        return self._small[key]

    def number(self, value: float) -> np.floating:
        """A number in the precision of the function."""
        return FLOATS[self.precision](value)

    def constant(self, key: str, name: str, tensor: Tensor, dtype: Any = None, tag: str = "") -> Var:
        """A constant shared under ``key`` by all functions of the file, in the function's own precision."""
        dtype = FLOATS[self.precision] if dtype is None else dtype
        tag = tag or np.dtype(dtype).name
        var = self.mb.const(val=self.store.array(f"{key}.{tag}", tensor, dtype), name=name)
        var.op.weight_id = f"{key}.{tag}"
        return var

    def matrix(self, source: Slice, name: str) -> Var:
        """A slice of a matrix to compute with: dequantized integers, or floats of the function's kind."""
        quantized = self.store.integers.get(source.name)
        if quantized is None:
            return self.constant(_key(source), name, source.of(self.store.full[source.name]))
        return self._dequantized(source, quantized, name, self._scale(source, quantized, f"{name}_s"))

    def vector(self, name: str, tensor_name: str, size: int, part: int | None = None) -> Var:
        """A prefix of a bias or of a norm's numbers."""
        key = f"{tensor_name}{'' if part is None else part}[{size}]"
        return self.constant(key, name, self.store.vector(tensor_name, size, part))

    def rows(self, source: Slice, seq: Var, name: str) -> Var:
        """The rows of an item table that ``seq`` [1, L] names: [1, L, columns], in the function's precision.

        A function of fp32 gets integers times scale exactly: both are looked up and multiplied in fp32,
        because the dequantized table is fp16.
        """
        quantized = self.store.integers.get(source.name)
        if quantized is not None and self.precision == "fp32":
            return self._exact_rows(source, quantized, seq, name)
        if quantized is not None:
            return self.gathered(self.matrix(source, f"{name}_t"), seq, name)
        stored = self.store.table_precision(source.name)
        full = source.of(self.store.full[source.name])
        table = self.constant(_key(source), f"{name}_t", full, FLOATS[stored])
        found = self.gathered(table, seq, name if stored == self.precision else f"{name}_g")
        return found if stored == self.precision else self.op("cast", name, x=found, dtype=self.precision)

    def gathered(self, table: Var, ids: Var, name: str) -> Var:
        """The rows of ``table`` [n, columns] that ``ids`` [...] name: [..., columns]."""
        return self.op("gather", name, x=table, indices=ids, axis=0, batch_dims=0, validate_indices=False)

    def _exact_rows(self, source: Slice, quantized: Quantized, seq: Var, name: str) -> Var:
        one = self.mb.const(val=np.ones((1, 1) if self.store.shared else (), np.float16), name=f"{name}_one")
        table = self._dequantized(source, quantized, f"{name}_t", one)
        values = self.op("cast", f"{name}_i", x=self.gathered(table, seq, f"{name}_g"), dtype="fp32")
        groups = source.of_integers(quantized).scale.shape[-1]
        scales = self.gathered(self._scale(source, quantized, f"{name}_s", column=True), seq, f"{name}_r")
        scales = self.op("cast", f"{name}_f", x=scales, dtype="fp32")
        if groups == 1:
            return self.op("mul", name, x=values, y=scales)
        length, columns = seq.shape[1], source.stop - source.start
        values = self.op("reshape", f"{name}_v", x=values, shape=[1, length, groups, columns // groups])
        scales = self.op("reshape", f"{name}_u", x=scales, shape=[1, length, groups, 1])
        product = self.op("mul", f"{name}_p", x=values, y=scales)
        return self.op("reshape", name, x=product, shape=[1, length, columns])

    def _scale(self, source: Slice, quantized: Quantized, name: str, *, column: bool = False) -> Var:
        """Scales fp16: [rows, 1], or [rows, groups] of int4; [rows] for ``constexpr_affine_dequantize``."""
        scale = source.of_integers(quantized).scale
        if not self.store.shared and not column:
            scale = scale[:, 0]
        # All column panels of an int8 tensor have the same scales, one per row.
        key = (
            f"{_key(source)}.scale"
            if quantized.bits == 4
            else f"{source.name}{source.part}[{source.rows}].scale"
        )
        return self.constant(f"{key}{scale.dim()}", name, scale, np.float16)

    def _dequantized(self, source: Slice, quantized: Quantized, name: str, scale: Var) -> Var:
        values = source.of_integers(quantized).values
        dtype = np.int8 if quantized.bits == 8 else self.store.kit.types.np_int4_dtype
        data = self.constant(_key(source), f"{name}_i", values, dtype, tag=f"int{quantized.bits}")
        if self.store.shared:
            return self.mb.constexpr_blockwise_shift_scale(data=data, scale=scale, name=name)
        return self.mb.constexpr_affine_dequantize(
            quantized_data=data, zero_point=np.int8(0), scale=scale, axis=np.int32(0), name=name
        )


def _is_var(value: Any) -> bool:
    return hasattr(value, "sym_type") or (isinstance(value, (list, tuple)) and any(map(_is_var, value)))


def _key(source: Slice) -> str:
    part = "" if source.part is None else str(source.part)
    return f"{source.name}{part}[{source.rows},{source.start}:{source.stop}]"


def zeros(size: int) -> Tensor:
    """A bias that adds nothing: ``linear`` would make an unshared one for every call without."""
    return torch.zeros(size)
