"""One integer supernet: every full tensor is quantized once, and every submodel slices the same integers."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from canet_mobile.errors import UsageError
from canet_mobile.model.canet import Canet

Bits = Literal[4, 8]
INT8_MAX = 127
INT4_MAX = 7
GROUP = 32  # columns that share a scale in int4
# Scales are float16 numbers, because Core ML computes with such, and those of int4 are bfloat16 numbers too,
# because XNNPACK stores such: so all formats hold the same scales. A row whose scale would be no such number
# is zero for any purpose.
SMALLEST_SCALE = 2.0**-24
# Shares of a row's largest value that int4 tries as the end of its range (the rest is clipped).
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
FOLDED_INTO = {"residual1": "out", "residual2": "ffn2"}
ROUTER_TABLE = "router.item_table"
TABLE = "supernet.item_table"


@dataclass(frozen=True)
class Quantized:
    """A full tensor as symmetric integers: ``values * scale``.

    Args:
        values: [..., rows, columns] int8, in [-127, 127] (8 bits) or [-7, 7] (4 bits).
        scale: float32 holding float16 numbers, positive: [..., rows, 1], one per output row (item rows for
            item tables), or [..., rows, columns / 32] with 4 bits (bfloat16 numbers as well).
        bits: 8 or 4.
    """

    values: Tensor
    scale: Tensor
    bits: Bits = 8

    def dequantized(self) -> Tensor:
        """``values * scale``, float32."""
        scale = self.scale if self.bits == 8 else self.scale.repeat_interleave(GROUP, -1)
        return self.values.float() * scale


@dataclass(frozen=True)
class IntegerModel:
    """The integers of a model, by parameter name (``supernet.blocks.0.qkv_weight``).

    Parameters that are not in it (biases, norms, positions, the router's block) stay float32.
    """

    tensors: dict[str, Quantized]

    @cached_property
    def sha256(self) -> str:
        """Of names, shapes, integers and scales: packages with the same one hold the same integers."""
        digest = hashlib.sha256()
        for name, found in sorted(self.tensors.items()):
            digest.update(f"{name} {found.bits} {list(found.values.shape)}\n".encode())
            digest.update(found.values.numpy().tobytes())
            digest.update(found.scale.numpy().astype("<f4").tobytes())
        return digest.hexdigest()


def _scaled(weight: Tensor, largest: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Integers and scales of rows [..., n] whose range ends at ``largest`` [..., 1]."""
    scale = largest / most
    scale = (scale.bfloat16() if most == INT4_MAX else scale).half().float()
    scale = torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)
    return torch.round(weight / scale).clamp_(-most, most), scale


def quantize(weight: Tensor, bits: Bits = 8) -> Quantized:
    """Symmetric integers of weight [..., rows, columns]: 8 bits with one scale per row, or 4 bits in groups
    of 32 columns, each with the range that leaves the least squared error.

    Raises:
        UsageError: with 4 bits, the columns are no multiple of 32.
    """
    weight = weight.detach().float()
    if bits == 8:
        values, scale = _scaled(weight, weight.abs().amax(-1, keepdim=True), INT8_MAX)
        return Quantized(values.to(torch.int8), scale)
    if weight.shape[-1] % GROUP:
        raise UsageError(
            f"int4 quantizes groups of {GROUP} columns, the model has a matrix of {weight.shape[-1]}",
            fix=f"train with widths that are multiples of {GROUP}, or --quantize int8",
        )
    groups = weight.unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1, keepdim=True)
    best_values, best_scale = _scaled(groups, largest, INT4_MAX)
    least = (groups - best_values * best_scale).square().sum(-1, keepdim=True)
    for share in CLIPS[1:]:
        values, scale = _scaled(groups, largest * share, INT4_MAX)
        error = (groups - values * scale).square().sum(-1, keepdim=True)
        better = error < least
        best_values = torch.where(better, values, best_values)
        best_scale = torch.where(better, scale, best_scale)
        least = torch.where(better, error, least)
    return Quantized(best_values.flatten(-2).to(torch.int8), best_scale.squeeze(-1).contiguous(), 4)


@torch.no_grad()
def fold_residuals(canet: Canet) -> Canet:
    """A copy whose residual scalars (lambda of Eq. 1) are one, folded into the sublayer's last matrix.

    A negative or zero lambda changes the sign or the size of the weights, never of a scale.
    """
    folded = copy.deepcopy(canet).eval()
    named = parameters(folded)
    for name, scalar in named.items():
        prefix, _, last = name.rpartition(".")
        if last in FOLDED_INTO:
            for kind in ("weight", "bias"):
                named[f"{prefix}.{FOLDED_INTO[last]}_{kind}"].mul_(scalar)
            scalar.fill_(1.0)
    return folded


def parameters(canet: Canet) -> dict[str, Tensor]:
    """Every tensor of a model by name: ``supernet.<name>`` and ``router.<name>``."""
    named = {f"supernet.{name}": tensor for name, tensor in canet.supernet.state_dict().items()}
    if canet.router is not None:
        named |= {f"router.{name}": tensor for name, tensor in canet.router.state_dict().items()}
    return named


def is_quantized(name: str, tensor: Tensor) -> bool:
    """Matrices of the supernet and the router's own item table.

    The router's block and head stay float32: 50 KB, whose int8 activations alone would move its argmax.
    """
    if name == ROUTER_TABLE:
        return True
    matrices = ("_weight", "item_table", "own_classifier")
    return name.startswith("supernet.") and name.endswith(matrices) and tensor.dim() > 1


def quantize_model(canet: Canet, bits: Bits = 8, *, higher: frozenset[str] = frozenset()) -> IntegerModel:
    """Quantize every full matrix once, residual scalars folded in first.

    Args:
        canet: as trained.
        bits: 8, or 4 (the router's own table then takes 8).
        higher: tensors kept in higher precision: 8 bits instead of 4, or float32 instead of 8.

    Raises:
        UsageError: a width does not fit groups of 32 (4 bits), or nothing is left to quantize.
    """
    tensors = {}
    for name, tensor in parameters(fold_residuals(canet)).items():
        if not is_quantized(name, tensor):
            continue
        own: Bits | None = 8 if name == ROUTER_TABLE else bits
        if name in higher:
            own = 8 if own == 4 else None
        if own is not None:
            tensors[name] = quantize(tensor, own)
    if not tensors:
        raise UsageError("the checkpoint holds no matrix that can be quantized", fix="--quantize fp32")
    return IntegerModel(tensors)


@torch.no_grad()
def dequantized(canet: Canet, integers: IntegerModel) -> Canet:
    """PyTorch with the same integers: a copy whose matrices are ``values * scale``.

    Activations stay float32, so what a package adds is its runtime's activation rounding alone.
    """
    model = fold_residuals(canet)
    named = parameters(model)
    for name, quantized in integers.tensors.items():
        named[name].copy_(quantized.dequantized())
    return model


@torch.no_grad()
def halved(canet: Canet) -> Canet:
    """PyTorch with the same halves: a copy whose matrices, lambda folded, are rounded to float16."""
    model = fold_residuals(canet)
    for name, tensor in parameters(model).items():
        if is_quantized(name, tensor):
            tensor.copy_(tensor.half().float())
    return model
