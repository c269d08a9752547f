"""One block of the supernet or the router, its numbers cut to the chosen route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_export.onnx.nodes import Graph
from canet_export.onnx.numbers import Matrix, Numbers
from canet_export.onnx.prefixes import Prefixes
from canet_export.onnx.products import Operand, held_values, hold, multiply, product_kind
from canet_mobile.model.layers import LAYER_NORM_EPS
from canet_mobile.model.space import FFN, HEADS

VECTORS = ("out_bias", "ffn2_bias", "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")


@dataclass(frozen=True)
class Block:
    """The values of one block, ready to use in the graph they were cut in.

    Args:
        attention: q, k and v in one matrix; for a last block q, and k and v, because it asks for one position
            and looks at all.
        out, ffn1, ffn2: the other matrices.
        qkv_bias, ffn1_bias: vectors [3 h], [4 h].
        vectors: those of :data:`VECTORS`, [h] each.
    """

    attention: tuple[Operand, ...]
    out: Operand
    ffn1: Operand
    ffn2: Operand
    qkv_bias: str
    ffn1_bias: str
    vectors: dict[str, str]


def run_block(graph: Graph, block: Block, x: str, mask: str, *, last: bool) -> str:
    """x [N, L, h], mask [N, 1, L or 1, L] -> [N, L, h], or [N, 1, h] with ``last`` (paper Eq. 1)."""
    if len(block.attention) == 1:
        qkv = multiply(graph, x, block.attention[0])
        q, k, v = graph.outputs("Split", qkv, count=3, axis=-1, num_outputs=3)
    else:
        by_q, by_kv = block.attention
        k, v = graph.outputs("Split", multiply(graph, x, by_kv), count=2, axis=-1, num_outputs=2)
        x = graph.node("Gather", x, graph.integers(-1), axis=1) if last else x
        q = multiply(graph, x, by_q)
    mixed = graph.fused("MultiHeadAttention", q, k, v, block.qkv_bias, "", mask, num_heads=HEADS)
    x = _norm(graph, x, multiply(graph, mixed, block.out), block, 1)
    inside = graph.fused("BiasGelu", multiply(graph, x, block.ffn1), block.ffn1_bias)
    return _norm(graph, x, multiply(graph, inside, block.ffn2), block, 2)


def _norm(graph: Graph, x: str, added: str, block: Block, number: int) -> str:
    """LayerNorm(x + added + bias). SkipLayerNormalization does it in one, eight times slower on the CPU."""
    bias = block.vectors["out_bias" if number == 1 else "ffn2_bias"]
    weights = (block.vectors[f"norm{number}_{kind}"] for kind in ("weight", "bias"))
    x = graph.node("Add", x, graph.node("Add", added, bias))
    return graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=LAYER_NORM_EPS)


def fixed_block(graph: Graph, numbers: Numbers, prefix: str, hidden: int, *, parted: bool) -> Block:
    """A block of a single width: no cuts, and every vector on its own.

    Args:
        graph: where it is used.
        numbers: of the job.
        prefix: ``supernet.blocks.0`` or ``router.block``.
        hidden: its width.
        parted: q is stored apart from k and v, because the block is the last of some route.
    """
    whole = numbers.qkv(prefix, hidden)
    pieces = (whole.piece("q", 0, 1), whole.piece("kv", 1, 3)) if parted else (whole,)
    attention = tuple(hold(graph, piece.flat(1)) for piece in pieces)
    ffn1, ffn2 = numbers.ffn(prefix, hidden)
    out, by1, by2 = (hold(graph, matrix) for matrix in (numbers.out(prefix, hidden).flat(2), ffn1, ffn2))
    vectors = {
        name: graph.constants.add(f"{prefix}.{name}", numbers.vector(f"{prefix}.{name}", size))
        for name, size in (*((name, hidden) for name in VECTORS), ("ffn1_bias", FFN * hidden))
    }
    bias = graph.constants.add(f"{prefix}.qkv_bias", numbers.qkv_bias(prefix, hidden).reshape(-1))
    return Block(attention, out, by1, by2, bias, vectors.pop("ffn1_bias"), vectors)


def cut_block(graph: Graph, numbers: Numbers, prefix: str, cuts: Prefixes, *, last: bool) -> Block:
    """A block cut to the chosen route's width; its vectors come out of three stored tensors."""
    hidden = numbers.hidden
    qkv, out, ffn1, ffn2 = (
        numbers.qkv(prefix, hidden),
        numbers.out(prefix, hidden),
        *numbers.ffn(prefix, hidden),
    )
    qkv_bias, ffn1_bias, vectors, scales = _vectors(
        graph, numbers, prefix, cuts, (qkv, out, ffn1, ffn2), last
    )
    held = held_values(graph, qkv)
    if last:
        values = [
            cuts.cut(graph, held, "h1c", (0, 1, 3)),
            cuts.cut(graph, held, "h3c", (0, 1, 3), (0, 1, 0)),
        ]
    else:
        values = [cuts.cut(graph, held, "hc", (0, 3))]
    flat = [graph.node("Flatten", value, axis=1) for value in values]
    attention = tuple(
        Operand(value, scale, product_kind(qkv)) for value, scale in zip(flat, scales[:-3], strict=True)
    )
    cut = [
        cuts.cut(graph, held_values(graph, matrix), key, axes)
        for matrix, key, axes in ((out, "ch", (1, 2)), (ffn1, "hf", (0, 1)), (ffn2, "fh", (0, 1)))
    ]
    cut[0] = graph.node("Flatten", cut[0], axis=2)
    by_out, by1, by2 = (
        Operand(value, scale, product_kind(matrix))
        for value, scale, matrix in zip(cut, scales[-3:], (out, ffn1, ffn2), strict=True)
    )
    return Block(attention, by_out, by1, by2, qkv_bias, ffn1_bias, vectors)


def _vectors(
    graph: Graph, numbers: Numbers, prefix: str, cuts: Prefixes, matrices: Sequence[Matrix], last: bool
) -> tuple[str, str, dict[str, str], list[str]]:
    """Bias of q, k, v; bias inside the FFN; the vectors; scales of the attention's, out, ffn1, ffn2."""
    qkv, out, ffn1, ffn2 = matrices
    heads = [numbers.qkv_bias(prefix, numbers.hidden)]
    inner = [numbers.vector(f"{prefix}.ffn1_bias", FFN * numbers.hidden)]
    rows = [numbers.vector(f"{prefix}.{name}", numbers.hidden) for name in VECTORS]
    has_scales = qkv.kind == "uint8"
    if has_scales:
        heads, inner = [*heads, qkv.scale], [*inner, ffn1.scale]  # type: ignore[list-item]
        rows += [out.scale, ffn2.scale]  # type: ignore[list-item]

    def flat(name: str, arrays: Sequence[NDArray[Any]], key: str) -> str:
        stored = graph.constants.add(f"{prefix}.{name}", np.stack(arrays))
        return graph.node("Reshape", cuts.cut(graph, stored, key, (-1,)), graph.integers(-1))

    def even(name: str, arrays: Sequence[NDArray[Any]], key: str) -> list[str]:
        count = len(arrays)
        if count == 1:
            return [flat(name, arrays, key)]
        return graph.outputs("Split", flat(name, arrays, key), count=count, axis=0, num_outputs=count)

    if has_scales and last:
        parts = graph.outputs("Split", flat("heads", heads, "c"), cuts.ends["scales"], count=3, axis=0)
    else:
        parts = even("heads", heads, "c")
    ffn1_bias, *ffn1_scale = even("inner", inner, "f")
    named = even("vectors", rows, "h")
    qkv_bias, *attention = parts
    found = dict(zip(VECTORS, named, strict=False))
    if not has_scales:
        return qkv_bias, ffn1_bias, found, [""] * (5 if last else 4)
    out_scale, ffn2_scale = named[len(VECTORS) :]
    return qkv_bias, ffn1_bias, found, [*attention, out_scale, *ffn1_scale, ffn2_scale]
