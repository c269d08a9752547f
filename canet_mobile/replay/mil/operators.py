"""The operators of ML Programs that canet-mobile writes, in PyTorch: one table, and an error for the rest.

Floats are float32 tensors whatever their declared type; the interpreter rounds them (interpreter.py).
Constants of weights arrive as tensors, parameters (axes, shapes, modes) as Python numbers, lists and strings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Types = dict[str, str]  # input -> declared data type
CASTS = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


@dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        run: its inputs by name -> a tensor, or a tuple of them.
        dtypes: declared types of its inputs, and its parameters -> data types of its outputs.
        parameters: inputs that are numbers, lists or strings, not tensors.
        alike: inputs whose data types must be the same.
    """

    run: Callable[..., Any]
    dtypes: Callable[[Types, dict[str, Any]], tuple[str, ...]]
    parameters: tuple[str, ...] = ()
    alike: tuple[str, ...] = ("x", "y")


def _like(name: str) -> Callable[[Types, dict[str, Any]], tuple[str, ...]]:
    return lambda types, _: (types[name],)


def _always(*names: str) -> Callable[[Types, dict[str, Any]], tuple[str, ...]]:
    return lambda types, _: names


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int, validate_indices: bool) -> Tensor:
    if axis != 0 or batch_dims != 0:
        raise NotImplementedError(f"gather of axis {axis} with {batch_dims} batch dimensions")
    return F.embedding(indices.long(), x)


def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, validate_indices: bool
) -> Tensor:
    if mode != "update":
        raise NotImplementedError(f"scatter_along_axis of mode {mode!r}")
    return data.scatter(axis, indices.long(), updates)


def slice_by_index(
    x: Tensor, begin: list[int], end: list[int], squeeze_mask: list[bool] | None = None
) -> Tensor:
    if any(not 0 <= b < e <= size for b, e, size in zip(begin, end, x.shape, strict=True)):
        raise ValueError(f"slice_by_index {begin}:{end} of {list(x.shape)}")
    found = x[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
    return found.squeeze([n for n, drop in enumerate(squeeze_mask) if drop]) if squeeze_mask else found


def layer_norm(x: Tensor, axes: list[int], gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    if axes not in ([-1], [x.dim() - 1]):
        raise NotImplementedError(f"layer_norm over the axes {axes}")
    return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def gelu(x: Tensor, mode: str) -> Tensor:
    if mode != "EXACT":
        raise NotImplementedError(f"gelu of mode {mode!r}")
    return F.gelu(x)


def concat(values: list[Tensor], axis: int, interleave: bool) -> Tensor:
    if interleave:
        raise NotImplementedError("concat that interleaves")
    return torch.cat(values, axis)


def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def split(x: Tensor, split_sizes: list[int], axis: int) -> tuple[Tensor, ...]:
    return torch.split(x, split_sizes, axis)


def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def topk(
    x: Tensor, k: int, axis: int, ascending: bool, sort: bool, return_indices: bool, output_indices_dtype: str
) -> tuple[Tensor, Tensor]:
    if not (sort and return_indices):
        raise NotImplementedError("topk without order or indices")
    values, ids = torch.topk(x, k, axis, largest=not ascending)
    return values, ids.int()


def reduce_argmax(x: Tensor, axis: int, keep_dims: bool, output_dtype: str) -> Tensor:
    """The lowest index on ties, which ``torch.argmax`` does not promise."""
    best = x == x.amax(axis, keepdim=True)
    index = torch.arange(x.shape[axis]).reshape([-1 if n == axis % x.dim() else 1 for n in range(x.dim())])
    return torch.where(best, index, x.shape[axis]).amin(axis, keepdim=keep_dims).int()


def blockwise_shift_scale(data: Tensor, scale: Tensor) -> Tensor:
    for axis, (size, scales) in enumerate(zip(data.shape, scale.shape, strict=True)):
        if size % scales:
            raise ValueError(f"{size} numbers in {scales} blocks")
        if 1 < scales < size:
            scale = scale.repeat_interleave(size // scales, axis)
    return data.float() * scale


def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    shape = [-1 if n == axis else 1 for n in range(quantized_data.dim())]
    return (quantized_data.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


OPERATORS: dict[str, Operator] = {
    "add": Operator(lambda x, y: x + y, _like("x")),
    "mul": Operator(lambda x, y: x * y, _like("x")),
    "equal": Operator(lambda x, y: x == y, _always("bool")),
    "cast": Operator(lambda x, dtype: x.to(CASTS[dtype]), lambda _, given: (given["dtype"],), ("dtype",)),
    "concat": Operator(concat, _like("values"), ("axis", "interleave")),
    "expand_dims": Operator(expand_dims, _like("x"), ("axes",)),
    "gather": Operator(gather, _like("x"), ("axis", "batch_dims", "validate_indices"), ()),
    "gelu": Operator(gelu, _like("x"), ("mode",)),
    "layer_norm": Operator(layer_norm, _like("x"), ("axes", "epsilon"), ("x", "gamma", "beta", "epsilon")),
    "linear": Operator(linear, _like("x"), (), ("x", "weight", "bias")),
    "matmul": Operator(matmul, _like("x"), ("transpose_x", "transpose_y")),
    "reduce_argmax": Operator(
        reduce_argmax, lambda _, given: (given["output_dtype"],), ("axis", "keep_dims", "output_dtype")
    ),
    "reshape": Operator(lambda x, shape: x.reshape(shape), _like("x"), ("shape",)),
    "scatter_along_axis": Operator(
        scatter_along_axis, _like("data"), ("axis", "mode", "validate_indices"), ("data", "updates")
    ),
    "slice_by_index": Operator(slice_by_index, _like("x"), ("begin", "end", "squeeze_mask")),
    "softmax": Operator(softmax, _like("x"), ("axis",)),
    "split": Operator(
        split,
        lambda types, given: (types["x"],) * len(given["split_sizes"]),
        ("split_sizes", "axis"),
    ),
    "topk": Operator(
        topk,
        lambda types, given: (types["x"], given["output_indices_dtype"]),
        ("k", "axis", "ascending", "sort", "return_indices", "output_indices_dtype"),
    ),
    "transpose": Operator(lambda x, perm: x.permute(perm), _like("x"), ("perm",)),
    "constexpr_affine_dequantize": Operator(affine_dequantize, _like("scale"), ("axis",), ()),
    "constexpr_blockwise_shift_scale": Operator(blockwise_shift_scale, _like("scale"), (), ()),
}
