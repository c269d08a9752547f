"""GRU4Rec: two recurrent layers and a projection back to the items' width."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.model.compared.catalogue import Catalogue, normalised
from canet_mobile.model.compared.sizes import Sizes
from canet_mobile.model.costs import gru4rec_paper_macs, table_mflops
from canet_mobile.model.layers import dropout

LAYERS = 2
WIDENING = 2  # hidden units for each channel of an item: 256 for 128


class GRU4Rec(nn.Module):
    """Item embeddings [128] -> 2 GRU layers of 256 without bias -> 128 -> catalogue.

    Embeddings and final states are normalised. Without biases a state of zeros stays zero while it reads
    zeros, so left padding changes nothing.
    """

    name = "gru4rec"
    rule: str | None = None

    def __init__(self, config: Sizes, items: int, users: int) -> None:
        super().__init__()
        self.items, self.length, self.dropout = items, config.length, config.dropout
        self.width = config.embedding[-1]
        hidden = WIDENING * self.width
        self.catalogue = Catalogue(items, self.width, tied=config.is_tied)
        sizes = [self.width, *[hidden] * LAYERS]
        self.layers = nn.ModuleList(
            nn.GRU(inside, outside, bias=False, batch_first=True) for inside, outside in pairwise(sizes)
        )
        self.out = nn.Linear(hidden, self.width)

    @property
    def classifier_bias(self) -> Tensor:
        """[V+1]."""
        return self.catalogue.classifier_bias

    def states(self, seq: Tensor) -> Tensor:
        """[B, T, width] after every item."""
        x = normalised(self.catalogue.embed(seq))
        for layer in self.layers:
            x, _ = layer(dropout(x, self.dropout, self.training))
        return normalised(self.out(dropout(x, self.dropout, self.training)))

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
        macs = gru4rec_paper_macs(self.items, self.length, self.width, WIDENING * self.width)
        return np.full(len(seq), table_mflops(macs))
