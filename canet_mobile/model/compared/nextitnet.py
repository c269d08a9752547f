"""NextItNet: residual blocks of dilated causal convolutions."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.model.compared.catalogue import Catalogue, normalised
from canet_mobile.model.compared.sizes import Sizes
from canet_mobile.model.costs import nextitnet_paper_macs, table_mflops
from canet_mobile.model.layers import LAYER_NORM_EPS, dropout

DILATIONS = (1, 4)  # of the two residual units in each of the paper's blocks
KERNEL = 3


class CausalConvolution(nn.Module):
    """y_t = W [x_{t-2r}, x_{t-r}, x_t] + b, as one matrix product of the three shifted inputs.

    Parameters: weight [width, 3·width], bias, and the LayerNorm's norm_weight and norm_bias [width].
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.randn(width, KERNEL * width) / math.sqrt(KERNEL * width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, LayerNorm, ReLU: [B, T, width] -> the same shape."""
        length = x.shape[1]
        padded = F.pad(x, (0, 0, (KERNEL - 1) * self.dilation, 0))
        taps = [padded[:, n * self.dilation : n * self.dilation + length] for n in range(KERNEL)]
        y = F.linear(torch.cat(taps, -1), self.weight, self.bias)
        return F.relu(F.layer_norm(y, y.shape[-1:], self.norm_weight, self.norm_bias, LAYER_NORM_EPS))


class Residual(nn.Module):
    """x + two convolutions, of dilation r and 2r."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = CausalConvolution(width, dilation)
        self.second = CausalConvolution(width, 2 * dilation)

    def forward(self, x: Tensor, real: Tensor, p: float) -> Tensor:
        """[B, T, width]; positions that are not ``real`` [B, T, 1] stay zero."""
        return x + dropout(self.second(self.first(x) * real), p, self.training) * real


class NextItNet(nn.Module):
    """Item embeddings -> 8 × dilations {1, 4}, width 128 -> catalogue: 32 convolutions of 3 taps.

    Embeddings and final states are normalised. Padding is held at zero between convolutions, which is what a
    convolution pads with itself.
    """

    name = "nextitnet"
    rule: str | None = None

    def __init__(self, config: Sizes, items: int, users: int) -> None:
        super().__init__()
        self.items, self.length, self.dropout = items, config.length, config.dropout
        self.width, self.blocks = config.hidden[-1], config.depth[-1]
        self.catalogue = Catalogue(items, self.width, tied=config.is_tied)
        self.residuals = nn.ModuleList(Residual(self.width, r) for r in DILATIONS * self.blocks)

    @property
    def classifier_bias(self) -> Tensor:
        """[V+1]."""
        return self.catalogue.classifier_bias

    def states(self, seq: Tensor) -> Tensor:
        """[B, T, width] after every item."""
        real = (seq > 0)[..., None]
        x = dropout(normalised(self.catalogue.embed(seq)), self.dropout, self.training)
        for residual in self.residuals:
            x = residual(x, real, self.dropout)
        return normalised(x)

    def last_states(self, seq: Tensor, users: Tensor) -> Tensor:
        """[B, width] after the newest item."""
        return self.states(seq)[:, -1]

    def scores(self, states: Tensor) -> Tensor:
        """[B, width] -> [B, V+1]."""
        return self.catalogue.scores(states)

    def loss(self, seq: Tensor, targets: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the catalogue at every real position."""
        return {"loss": self.catalogue.loss(self.states(seq), seq, targets)}

    def mflops(self, seq: Tensor) -> NDArray[np.float64]:
        """The same for every request."""
        macs = nextitnet_paper_macs(self.items, self.length, self.width, self.blocks)
        return np.full(len(seq), table_mflops(macs))
