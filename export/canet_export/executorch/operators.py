"""Given integers in a graph: the operators that XNNPACK and ExecuTorch's quantized kernels take whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_export.slices import Embedding, Leaf, Slice
from canet_mobile.model.integers import GROUP, INT8_MAX, IntegerModel, Quantized

INT4_MIN, INT4_MAX = -8, 7  # of the formats; our integers leave -8 out


def _per_position(x: Tensor) -> Tensor:
    """Activations as XNNPACK quantizes them at run time: int8, one scale and zero point per position."""
    ops = torch.ops.quantized_decomposed
    scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    x = ops.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
    return ops.dequantize_per_token(x, scale, zero, -128, 127, torch.int8, torch.float32)


class Int8Linear(nn.Module):
    """x [..., in] -> [..., out] with given integers, one scale per row."""

    def __init__(self, leaf: Leaf, quantized: Quantized) -> None:
        super().__init__()
        _hold(self, leaf, quantized)
        self.register_buffer("zero_point", torch.zeros(leaf.source.rows, dtype=torch.int64))
        self.bias = leaf.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.values, self.scale, self.zero_point, 0, -INT8_MAX, INT8_MAX, torch.int8
        )
        return F.linear(_per_position(x), weight, self.bias)


class Int8Embedding(nn.Module):
    """ids [...] int64 -> [..., columns] with given integers, one scale per item."""

    def __init__(self, leaf: Leaf, quantized: Quantized) -> None:
        super().__init__()
        _hold(self, leaf, quantized)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.ops.quantized_decomposed.embedding_byte(
            self.values, self.scale, None, -INT8_MAX, INT8_MAX, ids
        )


class Int4Linear(nn.Module):
    """x [..., in] -> [..., out] with given integers in groups of 32 columns.

    XNNPACK packs two integers in a byte and keeps the scales as bfloat16: see :func:`as_stored`.
    """

    values: Tensor
    scale: Tensor

    def __init__(self, leaf: Leaf, quantized: Quantized) -> None:
        super().__init__()
        _hold(self, leaf, quantized)
        self.register_buffer("zero_point", torch.zeros(self.scale.shape, dtype=torch.int8))
        self.bias = leaf.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_channel_group(
            self.values, self.scale, self.zero_point, INT4_MIN, INT4_MAX, torch.int8, GROUP, torch.float32
        )
        return F.linear(_per_position(x), weight, self.bias)


class Int4Embedding(nn.Module):
    """ids [...] int64 -> [..., columns] with given integers in groups of 32 columns, two in a byte."""

    values: Tensor

    def __init__(self, leaf: Leaf, quantized: Quantized) -> None:
        super().__init__()
        _hold(self, leaf, quantized)
        self.values = packed(self.values, even_is_high=True)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.ops.quantized_decomposed.embedding_4bit(
            self.values, self.scale, None, INT4_MIN, INT4_MAX, ids
        )


KINDS = {(8, False): Int8Linear, (8, True): Int8Embedding, (4, False): Int4Linear, (4, True): Int4Embedding}


def _hold(module: nn.Module, leaf: Leaf, quantized: Quantized) -> None:
    piece = leaf.source.of_integers(quantized)
    module.register_buffer("values", piece.values)
    module.register_buffer("scale", piece.scale[:, 0].clone() if piece.bits == 8 else piece.scale)


def packed(values: Tensor, *, even_is_high: bool) -> Tensor:
    """Integers in [-8, 7], [rows, columns] int8, plus 8 and two in a byte: [rows, columns / 2] uint8.

    ExecuTorch's embedding has the even column in the high half, XNNPACK in the low one.
    """
    shifted = (values + 8).view(torch.uint8)
    even, odd = shifted[:, ::2], shifted[:, 1::2]
    return (even << 4 | odd) if even_is_high else (odd << 4 | even)


class Panels(nn.Module):
    """The panels of an item table under names that say which numbers they hold.

    ExecuTorch finds constants outside a program by name alone, so no two methods may use one name for
    different numbers.
    """

    def __init__(self, parts: list[tuple[Slice, nn.Module]]) -> None:
        super().__init__()
        for source, module in parts:
            self.add_module(panel_name(source), module)

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()


def panel_name(source: Slice) -> str:
    """``items_64_96``: columns 64 to 96 of the supernet's item table."""
    owner = "items" if source.name.startswith("supernet.") else "router"
    return f"{owner}_{source.start}_{source.stop}"


def prepared(graph: nn.Module, integers: IntegerModel | None) -> nn.Module:
    """Name the panels, and put the integers of the full tensors, sliced, in the place of float matrices."""
    if hasattr(graph, "table"):
        graph.table = Panels([(panel.source, panel) for panel in graph.table])  # type: ignore[union-attr]
    for path, module in list(graph.named_modules()):
        if integers is not None and isinstance(module, Leaf) and module.source.name in integers.tensors:
            quantized = integers.tensors[module.source.name]
            kind = KINDS[quantized.bits, isinstance(module, Embedding)]
            graph.set_submodule(path, kind(module, quantized))
    return graph.eval()


def as_stored(graph: nn.Module) -> nn.Module:
    """The same graph with its constants as the file holds them; it can no longer run."""
    for module in graph.modules():
        if isinstance(module, Int4Linear):
            module.values = packed(module.values, even_is_high=False)
            module.scale = module.scale.to(torch.bfloat16).view(torch.int16)
    return graph
