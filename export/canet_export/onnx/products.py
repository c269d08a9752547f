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


@dataclass(frozen=True)
class Quantized:
    """Activations as uint8: names of values, scale and zero point."""

    values: str
    scale: str
    zero: str


def zero_point(graph: Graph) -> str:
    """128, uint8."""
    return graph.scalar("zero_point", ZERO_POINT, np.uint8)


def hold(graph: Graph, matrix: Matrix) -> Operand:
    """Put a matrix into the file."""
    values = graph.constants.add(matrix.name, matrix.values)
    scale = ""
    if matrix.scale is not None:
        scale = graph.constants.add(f"{matrix.name.split('.panel')[0]}.scale", matrix.scale)
    return Operand(values, scale, matrix.kind)


def quantized(graph: Graph, x: str) -> Quantized:
    """Quantize activations at run time, one scale for all of ``x``."""
    return Quantized(*graph.outputs("DynamicQuantizeLinear", x, count=3))


def multiply(graph: Graph, x: str, by: Operand, bias: str = "") -> str:
    """x [..., in] float32 -> [..., out] float32."""
    if by.kind == "uint8":
        return graph.fused("DynamicQuantizeMatMul", x, by.values, by.scale, zero_point(graph), bias)
    values = graph.node("Cast", by.values, to=1) if by.kind == "float16" else by.values
    product = graph.node("MatMul", x, values)
    return graph.node("Add", product, bias) if bias else product


def multiply_both(graph: Graph, x: str, first: Operand, second: Operand) -> tuple[str, str]:
    """Two products of the same x, which is quantized once."""
    if first.kind != "uint8" or second.kind != "uint8":
        return multiply(graph, x, first), multiply(graph, x, second)
    once, zero = quantized(graph, x), zero_point(graph)
    products = [
        graph.fused("MatMulIntegerToFloat", once.values, by.values, once.scale, by.scale, once.zero, zero, "")
        for by in (first, second)
    ]
    return products[0], products[1]
