"""The two ends that all methods but FPMC share: an item table and a classifier over the catalogue."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_mobile.model.layers import LAYER_NORM_EPS
from canet_mobile.model.losses import catalogue_loss
from canet_mobile.model.supernet import PAD_CLASS_BIAS

INITIAL_STD = 0.02


def normalised(x: Tensor) -> Tensor:
    """LayerNorm without parameters over the last dimension; zeros, the padding, stay zeros.

    SASRec's post-LN blocks bring embeddings to unit scale and hand states of unit scale to the classifier. A
    method that does neither by itself starts from scores near zero and learns many times slower.
    """
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


class Catalogue(nn.Module):
    """Item table [V+1, width] and classifier.

    Parameters: item_table, own_classifier [V+1, width] (unless tied), classifier_bias [V+1].

    Args:
        items: number of items V.
        width: channels of an item.
        tied: score with the item table instead of a classifier of its own.
    """

    def __init__(self, items: int, width: int, *, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.item_table = nn.Parameter(torch.randn(items + 1, width) * INITIAL_STD)
        if not tied:
            self.own_classifier = nn.Parameter(torch.randn(items + 1, width) * INITIAL_STD)
        self.classifier_bias = nn.Parameter(torch.zeros(items + 1))
        with torch.no_grad():
            self.classifier_bias[0] = PAD_CLASS_BIAS

    @property
    def classifier_weight(self) -> Tensor:
        """The classifier W [V+1, width]."""
        return self.item_table if self.tied else self.own_classifier

    def embed(self, seq: Tensor) -> Tensor:
        """[B, T] ids -> [B, T, width]; padding is all zeros."""
        return F.embedding(seq, self.item_table) * (seq > 0)[..., None]

    def scores(self, states: Tensor) -> Tensor:
        """[..., width] -> [..., V+1]."""
        return F.linear(states, self.classifier_weight, self.classifier_bias)

    def loss(self, states: Tensor, seq: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the catalogue at every real position: states [B, T, width], ids [B, T]."""
        real = seq > 0
        return catalogue_loss(self, states[real], targets[real]) / real.sum()
