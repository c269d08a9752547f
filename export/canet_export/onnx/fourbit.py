"""Four-bit integers in an ONNX file: two to a byte, unpacked by the graph where no operator takes them.

The classifier goes into MatMulNBits as it is. Item rows are unpacked after they were looked up. The
layers' matrices are unpacked when the file is loaded: ONNX Runtime folds the nodes below into float32
constants, so that there four bits save bytes of the file, not memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_export.onnx.nodes import Graph
from canet_mobile.model.integers import GROUP

ZERO = 8  # -7..7 is stored as 1..15
FLOAT = 1  # TensorProto


def packed(values: Tensor) -> NDArray[np.uint8]:
    """Integers [..., n] in [-7, 7] -> [..., n / 2] uint8, the first of two in the low half."""
    shifted = (values.to(torch.int16) + ZERO).to(torch.uint8)
    return (shifted[..., 0::2] | (shifted[..., 1::2] << 4)).contiguous().numpy()


def half_scales(scale: Tensor) -> NDArray[np.float16]:
    """Scales as float16, which they are."""
    return scale.to(torch.float16).contiguous().numpy()


def floats(graph: Graph, pairs: str, scale: str, lead: Sequence[int], groups: int) -> str:
    """Unpack.

    Args:
        graph: where the nodes go.
        pairs: uint8 [*lead, n / 2, 1].
        scale: float16 [*lead, groups, 1].
        lead: the leading sizes; 0 is "as it is".
        groups: of 32.

    Returns:
        float32 [*lead, groups, 32].
    """
    shifts = graph.constants.add("halves", np.array([0, 4], np.uint8))
    both = graph.node("BitShift", pairs, shifts, direction="RIGHT")
    low = graph.node("BitwiseAnd", both, graph.scalar("low_half", 15, np.uint8))
    whole = graph.node("Cast", graph.node("Reshape", low, graph.integers(*lead, groups, GROUP)), to=FLOAT)
    integers = graph.node("Sub", whole, graph.scalar("zero_point4", ZERO, np.float32))
    return graph.node("Mul", integers, graph.node("Cast", scale, to=FLOAT))
