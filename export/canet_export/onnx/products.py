"""Products with stored matrices, in whatever numbers these are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def hold(graph: Graph, matrix: Matrix) -> Operand:
    """Put a matrix into the file."""
    values = graph.constants.add(matrix.name, matrix.values)
    scale = ""
    if matrix.scale is not None:
        scale = graph.constants.add(matrix.scale_name, matrix.scale)
    return Operand(values, scale, matrix.kind)


def multiply(graph: Graph, x: str, by: Operand, bias: str = "") -> str:
    """x [..., in] float32 -> [..., out] float32."""
    if by.kind == "uint8":
        return graph.fused("DynamicQuantizeMatMul", x, by.values, by.scale, zero_point(graph), bias)
    values = graph.node("Cast", by.values, to=1) if by.kind == "float16" else by.values
    product = graph.node("MatMul", x, values)
    return graph.node("Add", product, bias) if bias else product
