"""Products with stored matrices, in whatever numbers these are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canet_export.onnx.fourbit import floats
from canet_export.onnx.nodes import Graph
from canet_export.onnx.numbers import ZERO_POINT, Kind, Matrix


@dataclass(frozen=True)
class Operand:
    """A matrix ready to multiply with: the names of its values [in, out] and, with uint8, its scale [out]."""

    values: str
    scale: str
    kind: Kind


def zero_point(graph: Graph) -> str:
    """128, uint8."""
    return graph.scalar("zero_point", ZERO_POINT, np.uint8)


def held_values(graph: Graph, matrix: Matrix) -> str:
    """Put a matrix's values into the file; the name of what a product takes in.

    Four-bit values are unpacked in the main graph, by nodes that are folded when the file is loaded.
    """
    values = graph.constants.add(matrix.name, matrix.values)
    if matrix.layout is None:
        return values
    assert matrix.scale is not None
    unpacked = graph.constants.unpacked
    if matrix.name not in unpacked:
        main, (shape, order, final) = graph.main, matrix.layout
        scale = main.constants.add(matrix.scale_name, matrix.scale)
        x = floats(main, values, scale, matrix.values.shape[:-2], matrix.scale.shape[-2])
        x = main.node("Transpose", main.node("Reshape", x, main.integers(*shape)), perm=list(order))
        unpacked[matrix.name] = main.node("Reshape", x, main.integers(*final)) if final else x
    return unpacked[matrix.name]


def hold(graph: Graph, matrix: Matrix) -> Operand:
    """Put a matrix into the file."""
    values = held_values(graph, matrix)
    if matrix.kind != "uint8":
        return Operand(values, "", product_kind(matrix))
    assert matrix.scale is not None
    return Operand(values, graph.constants.add(matrix.scale_name, matrix.scale), matrix.kind)


def product_kind(matrix: Matrix) -> Kind:
    """What a product with the held matrix works with."""
    return "float32" if matrix.kind == "uint4" else matrix.kind


def multiply(graph: Graph, x: str, by: Operand, bias: str = "") -> str:
    """x [..., in] float32 -> [..., out] float32."""
    if by.kind == "uint8":
        return graph.fused("DynamicQuantizeMatMul", x, by.values, by.scale, zero_point(graph), bias)
    values = graph.node("Cast", by.values, to=1) if by.kind == "float16" else by.values
    product = graph.node("MatMul", x, values)
    return graph.node("Add", product, bias) if bias else product
