"""The operators of ML Programs that canet-mobile writes, in NumPy: one table, and an error for the rest.

Floats are float32 arrays whatever their declared type, and every operator computes in float32; the
interpreter rounds after it what is declared fp16 (interpreter.py). Constants of weights arrive as arrays,
parameters (axes, shapes, modes) as Python numbers, lists and strings. An index outside of its axis is
refused, where NumPy would count a negative one from the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Types = dict[str, str]  # input -> declared data type
CASTS: dict[str, Any] = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
# erf(x) = x P(x²) / Q(x²) for |x| <= 4, highest power first: the float32 rational of Eigen and XLA.
ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


@dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        run: its inputs by name -> an array, or a tuple of them.
        dtypes: declared types of its inputs, and its parameters -> data types of its outputs.
        parameters: inputs that are numbers, lists or strings, not arrays.
        alike: inputs whose data types must be the same.
        moves: its results are numbers that came in, so there is nothing to round.
    """

    run: Callable[..., Any]
    dtypes: Callable[[Types, dict[str, Any]], tuple[str, ...]]
    parameters: tuple[str, ...] = ()
    alike: tuple[str, ...] = ("x", "y")
    moves: bool = False


def _like(name: str) -> Callable[[Types, dict[str, Any]], tuple[str, ...]]:
    return lambda types, _: (types[name],)


def _always(*names: str) -> Callable[[Types, dict[str, Any]], tuple[str, ...]]:
    return lambda types, _: names


def linear(x: Array, weight: Array, bias: Array) -> Array:
    found = x @ weight.T
    found += bias
    return found


def matmul(x: Array, y: Array, transpose_x: bool, transpose_y: bool) -> Array:
    return (np.swapaxes(x, -1, -2) if transpose_x else x) @ (np.swapaxes(y, -1, -2) if transpose_y else y)


def cast(x: Array, dtype: str) -> Array:
    if dtype not in CASTS:
        raise NotImplementedError(f"cast to {dtype}")
    return x.astype(CASTS[dtype])


def gather(x: Array, indices: Array, axis: int, batch_dims: int, validate_indices: bool) -> Array:
    if axis != 0 or batch_dims != 0:
        raise NotImplementedError(f"gather of axis {axis} with {batch_dims} batch dimensions")
    _require_inside(indices, x.shape[0])
    return x[indices]


def _require_inside(indices: Array, size: int) -> None:
    if ((indices < 0) | (indices >= size)).any():
        raise IndexError(f"the indices {indices.min()} to {indices.max()} are not all of 0 to {size - 1}")


def scatter_along_axis(
    data: Array, indices: Array, updates: Array, axis: int, mode: str, validate_indices: bool
) -> Array:
    if mode != "update":
        raise NotImplementedError(f"scatter_along_axis of mode {mode!r}")
    beside = list(data.shape)
    beside[axis] = indices.shape[axis]
    if not beside == list(indices.shape) == list(updates.shape):
        raise ValueError(f"{list(updates.shape)} at {list(indices.shape)} into {list(data.shape)}")
    _require_inside(indices, data.shape[axis])
    found = data.copy()
    np.put_along_axis(found, indices, updates, axis)
    return found


def slice_by_index(
    x: Array, begin: list[int], end: list[int], squeeze_mask: list[bool] | None = None
) -> Array:
    if any(not 0 <= b < e <= size for b, e, size in zip(begin, end, x.shape, strict=True)):
        raise ValueError(f"slice_by_index {begin}:{end} of {list(x.shape)}")
    found = x[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
    return np.squeeze(found, tuple(n for n, drop in enumerate(squeeze_mask or []) if drop))


def layer_norm(x: Array, axes: list[int], gamma: Array, beta: Array, epsilon: float) -> Array:
    if axes not in ([-1], [x.ndim - 1]):
        raise NotImplementedError(f"layer_norm over the axes {axes}")
    width = x.shape[-1]
    found: Array = x - np.add.reduce(x, -1, keepdims=True) / width
    variance = np.einsum("...c,...c->...", found, found)[..., None] / width
    found /= np.sqrt(variance + epsilon)
    found *= gamma
    found += beta
    return found


def gelu(x: Array, mode: str) -> Array:
    """x Φ(x), with the erf below: within 1.4e-6 of the exact value for |x| <= 10 (PyTorch: 1.1e-6)."""
    if mode != "EXACT":
        raise NotImplementedError(f"gelu of mode {mode!r}")
    found = erf(x * math.sqrt(0.5))
    found += 1
    found *= x
    found *= 0.5
    return found


def erf(x: Array) -> Array:
    """The error function in float32, which NumPy has not: within 4.2e-7 of the exact one."""
    x = np.clip(x, -4, 4)
    square = x * x
    found = _polynomial(square, ERF_P)
    found *= x
    found /= _polynomial(square, ERF_Q)
    return found


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    found = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        found += coefficient
        found *= x
    found += coefficients[-1]
    return found


def transpose(x: Array, perm: list[int]) -> Array:
    """Copied into its new order: products of matrices that lie otherwise would not go to BLAS."""
    return np.ascontiguousarray(x.transpose(perm))


def concat(values: list[Array], axis: int, interleave: bool) -> Array:
    if interleave:
        raise NotImplementedError("concat that interleaves")
    return np.concatenate(values, axis)


def softmax(x: Array, axis: int) -> Array:
    found: Array = x - x.max(axis, keepdims=True)
    np.exp(found, found)
    found /= found.sum(axis, keepdims=True)
    return found


def split(x: Array, split_sizes: list[int], axis: int) -> tuple[Array, ...]:
    if sum(split_sizes) != x.shape[axis]:
        raise ValueError(f"{x.shape[axis]} numbers in parts of {split_sizes}")
    return tuple(np.split(x, np.cumsum(split_sizes)[:-1], axis))


def expand_dims(x: Array, axes: list[int]) -> Array:
    for axis in axes:
        x = np.expand_dims(x, axis)
    return x


def topk(
    x: Array, k: int, axis: int, ascending: bool, sort: bool, return_indices: bool, output_indices_dtype: str
) -> tuple[Array, Array]:
    """The k best, best first; the lower index stands first on ties, and is in where not all of a tie fit.

    NaN counts as the largest number, so that one in the scores is seen in the list.
    """
    if not (sort and return_indices):
        raise NotImplementedError("topk without order or indices")
    numbers = np.moveaxis(x, axis, -1)
    key = np.where(np.isnan(numbers), np.inf, numbers)
    key = key if ascending else -key
    ids = np.empty((*key.shape[:-1], k), np.int32)
    for row in np.ndindex(key.shape[:-1]):
        last = np.partition(key[row], k - 1)[k - 1]
        fit = np.flatnonzero(key[row] <= last)  # in the order of their indices, which a stable sort keeps
        ids[row] = fit[np.argsort(key[row][fit], kind="stable")[:k]]
    values = np.take_along_axis(numbers, ids, -1)
    return np.moveaxis(values, -1, axis), np.moveaxis(ids, -1, axis)


def reduce_argmax(x: Array, axis: int, keep_dims: bool, output_dtype: str) -> Array:
    """The lowest index on ties, which is what ``np.argmax`` promises."""
    if np.isnan(x).any():
        raise ValueError("reduce_argmax of NaN")
    found: Array = np.argmax(x, axis, keepdims=keep_dims)
    return found.astype(np.int32)


def blockwise_shift_scale(data: Array, scale: Array) -> Array:
    for axis, (size, scales) in enumerate(zip(data.shape, scale.shape, strict=True)):
        if size % scales:
            raise ValueError(f"{size} numbers in {scales} blocks")
        if 1 < scales < size:
            scale = scale.repeat(size // scales, axis)
    return data.astype(np.float32) * scale


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: int) -> Array:
    shape = [-1 if n == axis else 1 for n in range(quantized_data.ndim)]
    shifted = quantized_data.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
    return shifted * scale.reshape(shape)


OPERATORS: dict[str, Operator] = {
    "add": Operator(lambda x, y: x + y, _like("x")),
    "mul": Operator(lambda x, y: x * y, _like("x")),
    "equal": Operator(lambda x, y: x == y, _always("bool")),
    "cast": Operator(cast, lambda _, given: (given["dtype"],), ("dtype",)),
    "concat": Operator(concat, _like("values"), ("axis", "interleave"), moves=True),
    "expand_dims": Operator(expand_dims, _like("x"), ("axes",), moves=True),
    "gather": Operator(gather, _like("x"), ("axis", "batch_dims", "validate_indices"), (), moves=True),
    "gelu": Operator(gelu, _like("x"), ("mode",)),
    "layer_norm": Operator(layer_norm, _like("x"), ("axes", "epsilon"), ("x", "gamma", "beta", "epsilon")),
    "linear": Operator(linear, _like("x"), (), ("x", "weight", "bias")),
    "matmul": Operator(matmul, _like("x"), ("transpose_x", "transpose_y")),
    "reduce_argmax": Operator(
        reduce_argmax, lambda _, given: (given["output_dtype"],), ("axis", "keep_dims", "output_dtype")
    ),
    "reshape": Operator(lambda x, shape: x.reshape(shape), _like("x"), ("shape",), moves=True),
    "scatter_along_axis": Operator(
        scatter_along_axis,
        _like("data"),
        ("axis", "mode", "validate_indices"),
        ("data", "updates"),
        moves=True,
    ),
    "slice_by_index": Operator(slice_by_index, _like("x"), ("begin", "end", "squeeze_mask"), moves=True),
    "softmax": Operator(softmax, _like("x"), ("axis",)),
    "split": Operator(
        split,
        lambda types, given: (types["x"],) * len(given["split_sizes"]),
        ("split_sizes", "axis"),
        moves=True,
    ),
    "topk": Operator(
        topk,
        lambda types, given: (types["x"], given["output_indices_dtype"]),
        ("k", "axis", "ascending", "sort", "return_indices", "output_indices_dtype"),
        moves=True,
    ),
    "transpose": Operator(transpose, _like("x"), ("perm",), moves=True),
    "constexpr_affine_dequantize": Operator(affine_dequantize, _like("scale"), ("axis",), ()),
    "constexpr_blockwise_shift_scale": Operator(blockwise_shift_scale, _like("scale"), (), ()),
}
