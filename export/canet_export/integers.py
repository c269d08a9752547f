"""One integer supernet: every full tensor is quantized once, and every submodel slices the same integers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from canet_mobile.model.canet import Canet

INT8_MAX = 127
# Runtimes demand positive, normal scales. A row this small is zero for any purpose.
SMALLEST_SCALE = 1e-12
FOLDED_INTO = {"residual1": "out", "residual2": "ffn2"}


@dataclass(frozen=True)
class Quantized:
    """A full tensor as symmetric int8: ``values * scale``.

    Args:
        values: [..., rows, columns] int8 in [-127, 127].
        scale: [..., rows, 1] float32, positive: one scale per output row (item rows for item tables).
    """

    values: Tensor
    scale: Tensor

    def dequantized(self) -> Tensor:
        """``values * scale``, float32."""
        return self.values.float() * self.scale


@dataclass(frozen=True)
class IntegerModel:
    """The integers of a model, by parameter name (``supernet.blocks.0.qkv_weight``).

    Parameters that are not in it (biases, norms, positions, the router's block) stay float32.
    """

    tensors: dict[str, Quantized]


def quantize(weight: Tensor) -> Quantized:
    """Symmetric int8 with one scale per row: weight [..., rows, columns] float."""
    scale = weight.detach().float().abs().amax(-1, keepdim=True) / INT8_MAX
    scale = torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)
    values = torch.round(weight.detach().float() / scale).clamp_(-INT8_MAX, INT8_MAX)
    return Quantized(values.to(torch.int8), scale)


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


def _is_quantized(name: str, tensor: Tensor) -> bool:
    """Matrices of the supernet and the router's own item table.

    The router's block and head stay float32: 50 KB, whose int8 activations alone would move its argmax.
    """
    if name == "router.item_table":
        return True
    matrices = ("_weight", "item_table", "own_classifier")
    return name.startswith("supernet.") and name.endswith(matrices) and tensor.dim() > 1


def quantize_model(canet: Canet) -> IntegerModel:
    """Quantize every full matrix once, residual scalars folded in first."""
    named = parameters(fold_residuals(canet))
    return IntegerModel({n: quantize(t) for n, t in named.items() if _is_quantized(n, t)})


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
