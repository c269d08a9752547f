"""One block of the supernet or the router, its numbers cut to the chosen route."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canet_export.onnx.nodes import Graph
from canet_export.onnx.numbers import Matrix, Numbers
from canet_export.onnx.prefixes import Prefixes
from canet_export.onnx.products import Operand, hold, multiply, multiply_both
from canet_mobile.model.layers import LAYER_NORM_EPS
from canet_mobile.model.space import HEADS

VECTORS = ("out_bias", "ffn2_bias", "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")


@dataclass(frozen=True)
class Block:
    """The values of one block, ready to use in the graph they were cut in."""

    q: Operand
    kv: Operand
    out: Operand
    ffn1: Operand
    ffn2: Operand
    qkv_bias: str
    ffn1_bias: str
    vectors: dict[str, str]


def last_position(graph: Graph, x: str) -> str:
    """[N, L, h] -> [N, 1, h]."""
    return graph.node("Gather", x, graph.integers(-1), axis=1)


def run_block(graph: Graph, block: Block, x: str, mask: str, *, last: bool) -> str:
    """x [N, L, h], mask [N, 1, L or 1, L] -> [N, L, h], or [N, 1, h] with ``last`` (paper Eq. 1)."""
    if last:
        asked = last_position(graph, x)
        q, kv = multiply(graph, asked, block.q), multiply(graph, x, block.kv)
    else:
        asked = x
        q, kv = multiply_both(graph, x, block.q, block.kv)
    k, v = graph.outputs("Split", kv, count=2, axis=-1, num_outputs=2)
    mixed = graph.fused("MultiHeadAttention", q, k, v, block.qkv_bias, "", mask, num_heads=HEADS)
    x = _norm(graph, asked, multiply(graph, mixed, block.out), block, 1)
    inside = graph.fused("BiasGelu", multiply(graph, x, block.ffn1), block.ffn1_bias)
    return _norm(graph, x, multiply(graph, inside, block.ffn2), block, 2)


def _norm(graph: Graph, x: str, added: str, block: Block, number: int) -> str:
    bias = block.vectors["out_bias" if number == 1 else "ffn2_bias"]
    weights = (block.vectors[f"norm{number}_{kind}"] for kind in ("weight", "bias"))
    return graph.fused("SkipLayerNormalization", x, added, *weights, bias, epsilon=LAYER_NORM_EPS)


def fixed_block(graph: Graph, numbers: Numbers, prefix: str, hidden: int) -> Block:
    """A block of a single width: no cuts, every vector on its own."""
    q, kv = numbers.q_and_kv(prefix, hidden)
    ffn1, ffn2 = numbers.ffn(prefix, hidden)
    vector = {
        name: graph.constants.add(f"{prefix}.{name}", numbers.vector(f"{prefix}.{name}", size))
        for name, size in (*((name, hidden) for name in VECTORS), ("ffn1_bias", 4 * hidden))
    }
    bias = graph.constants.add(f"{prefix}.qkv_bias", numbers.qkv_bias(prefix, hidden).reshape(-1))
    matrices = (_flat(m) for m in (q, kv, numbers.out(prefix, hidden), ffn1, ffn2))
    held = [hold(graph, matrix) for matrix in matrices]
    return Block(*held, bias, vector.pop("ffn1_bias"), vector)


def _flat(matrix: Matrix) -> Matrix:
    """[in, out], scale [out]."""
    values = matrix.values
    if values.ndim == 3:
        values = values.reshape(-1, values.shape[-1])
    elif values.ndim == 4:
        values = values.reshape(values.shape[0], -1)
    return Matrix(matrix.name, values, None if matrix.scale is None else matrix.scale.reshape(-1))


def cut_block(graph: Graph, numbers: Numbers, prefix: str, cuts: Prefixes) -> Block:
    """A block cut to the chosen route's width; its vectors come from one stored tensor by one Slice."""
    hidden = numbers.hidden
    if cuts.is_fixed("h"):
        return fixed_block(graph, numbers, prefix, hidden)
    q, kv = numbers.q_and_kv(prefix, hidden)
    out, (ffn1, ffn2) = numbers.out(prefix, hidden), numbers.ffn(prefix, hidden)

    def cut(matrix: Matrix, key: str, axes: tuple[int, ...], flat: int | None) -> str:
        found = cuts.cut(graph, graph.constants.add(matrix.name, matrix.values), key, axes)
        return found if flat is None else graph.node("Flatten", found, axis=flat)

    values = [
        cut(q, "hc", (0, 3), 1),
        cut(kv, "hc", (0, 3), 1),
        cut(out, "ch", (1, 2), 2),
        cut(ffn1, "hf", (0, 1), None),
        cut(ffn2, "fh", (0, 1), None),
    ]

    def rows(name: str, parts: list[np.ndarray], key: str, lengths: str = "") -> list[str]:
        stored = graph.constants.add(f"{prefix}.{name}", np.stack(parts))
        flat = graph.node("Reshape", cuts.cut(graph, stored, key, (stored_dims(parts),)), graph.integers(-1))
        if len(parts) == 1 and not lengths:
            return [flat]
        if lengths:
            return graph.outputs("Split", flat, lengths, count=3, axis=0)
        return graph.outputs("Split", flat, count=len(parts), axis=0, num_outputs=len(parts))

    bias = numbers.qkv_bias(prefix, hidden)
    vectors = [numbers.vector(f"{prefix}.{name}", hidden) for name in VECTORS]
    inner = [numbers.vector(f"{prefix}.ffn1_bias", 4 * hidden)]
    if q.scale is None or kv.scale is None:
        (qkv_bias,), scales = rows("heads", [bias], "c"), [""] * 5
        (ffn1_bias,), found = rows("inner", inner, "f"), rows("vectors", vectors, "h")
    else:
        assert out.scale is not None and ffn1.scale is not None and ffn2.scale is not None
        heads = np.concatenate([bias, q.scale, kv.scale])
        qkv_bias, q_scale, kv_scale = rows("heads", [heads], "c", cuts.ends["scales"])
        ffn1_bias, ffn1_scale = rows("inner", [*inner, ffn1.scale], "f")
        *found, out_scale, ffn2_scale = rows("vectors", [*vectors, out.scale, ffn2.scale], "h")
        scales = [q_scale, kv_scale, out_scale, ffn1_scale, ffn2_scale]
    kinds = [m.kind for m in (q, kv, out, ffn1, ffn2)]
    held = [Operand(*parts) for parts in zip(values, scales, kinds, strict=True)]
    return Block(*held, qkv_bias, ffn1_bias, dict(zip(VECTORS, found, strict=True)))


def stored_dims(parts: list[np.ndarray]) -> int:
    """The last axis of the stacked parts."""
    return parts[0].ndim
