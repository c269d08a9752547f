"""AutoDim: search an embedding size for every group of items, then train a SASRec with those sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.data.split import Windows, length_buckets
from canet_mobile.model.compared.catalogue import INITIAL_STD, normalised
from canet_mobile.model.compared.sizes import SearchSettings, Sizes
from canet_mobile.model.costs import autodim_paper_macs, table_mflops
from canet_mobile.model.layers import attention_bias, block_sliced, dropout, new_blocks
from canet_mobile.model.losses import catalogue_loss
from canet_mobile.model.supernet import PAD_CLASS_BIAS

GROUPS = 10  # of items, by popularity: a tenth of the catalogue each
ARCHITECTURE_EVERY = 5  # in the search, every fifth batch moves the size weights, the others the network
ARCHITECTURE_LR = 1e-2


class _Head(NamedTuple):
    classifier_weight: Tensor
    classifier_bias: Tensor


class AutoDim(nn.Module):
    """A SASRec of 8 blocks of 128 whose items have embeddings of 64, 96 or 128 channels.

    An item uses the first channels of its row, and every size has its own projection to the hidden width. In
    the search an item's input is a mixture of all sizes; afterwards its group's best size alone.

    Parameters: item_table [V+1, E], projections [H, size], positions [L, H], blocks, own_classifier [V+1, H]
    (unless tied), classifier_bias [V+1]. Buffers: group [V+1], choice [groups], an index into the sizes.
    """

    name = "autodim"
    rule: str | None = None

    def __init__(self, config: Sizes, items: int, users: int) -> None:
        super().__init__()
        self.items, self.length, self.dropout, self.tied = (
            items,
            config.length,
            config.dropout,
            config.is_tied,
        )
        self.sizes, self.width, self.depth = config.embedding, config.hidden[-1], config.depth[-1]
        self.item_table = nn.Parameter(torch.randn(items + 1, self.sizes[-1]) * INITIAL_STD)
        self.projections = nn.ParameterList(torch.eye(self.width, size) for size in self.sizes)
        self.positions = nn.Parameter(torch.randn(config.length, self.width) * INITIAL_STD)
        self.blocks = new_blocks(self.depth, self.width, config.residual, config.residual_power)
        if not self.tied:
            self.own_classifier = nn.Parameter(torch.randn(items + 1, self.width) * INITIAL_STD)
        self.classifier_bias = nn.Parameter(torch.zeros(items + 1))
        with torch.no_grad():
            self.classifier_bias[0] = PAD_CLASS_BIAS
        self.group: Tensor
        self.choice: Tensor
        self.register_buffer("group", torch.zeros(items + 1, dtype=torch.int64))
        self.register_buffer("choice", torch.zeros(GROUPS, dtype=torch.int64))

    def embed(self, ids: Tensor, mix: Tensor | None = None) -> Tensor:
        """Embeddings at the hidden width, [..., H] for ``ids`` [...].

        Args:
            ids: item ids.
            mix: weights of the sizes [groups, sizes] during the search; None takes each group's choice.
        """
        raw = F.embedding(ids, self.item_table)
        options = [
            F.linear(raw[..., :size], weight)
            for size, weight in zip(self.sizes, self.projections, strict=True)
        ]
        if mix is None:
            weights = F.one_hot(self.choice, len(self.sizes)).to(raw.dtype)[self.group[ids]]
        else:
            # Of one scale, so that the mixture's weights, not the sizes of numbers, decide.
            options = [INITIAL_STD * normalised(option) for option in options]
            weights = mix[self.group[ids]]
        return (torch.stack(options, -1) @ weights[..., None])[..., 0]

    def head(self, mix: Tensor | None = None) -> _Head:
        """The classifier: its own, or the items as they are embedded."""
        if not self.tied:
            return _Head(self.own_classifier, self.classifier_bias)
        every = torch.arange(self.items + 1, device=self.item_table.device)
        return _Head(self.embed(every, mix).to(self.item_table.dtype), self.classifier_bias)

    def states(self, seq: Tensor, mix: Tensor | None = None) -> Tensor:
        """[B, T, H] after every item."""
        x = dropout(self.embed(seq, mix) + self.positions[-seq.shape[1] :], self.dropout, self.training)
        bias = attention_bias(seq)
        for block in self.blocks:
            x = block_sliced(block, x, bias, self.width, self.dropout, self.training)  # type: ignore[arg-type]
        return x

    def last_states(self, seq: Tensor, users: Tensor) -> Tensor:
        """[B, H] after the newest item."""
        return self.states(seq)[:, -1]

    def scores(self, states: Tensor) -> Tensor:
        """[B, H] -> [B, V+1]."""
        return F.linear(states, *self.head())

    def loss(
        self, seq: Tensor, targets: Tensor, users: Tensor, mix: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropy over the catalogue at every real position."""
        real = seq > 0
        states = self.states(seq, mix)[real]
        return {"loss": catalogue_loss(self.head(mix), states, targets[real]) / len(states)}

    def mflops(self, seq: Tensor) -> NDArray[np.float64]:
        """The same for every request: the size of an item is averaged over the catalogue."""
        sizes = torch.tensor(self.sizes, device=self.group.device)[self.choice][self.group].double()
        macs = autodim_paper_macs(
            self.items, self.length, self.width, self.depth, float(sizes.mean()), self.sizes, tied=self.tied
        )
        return np.full(len(seq), table_mflops(macs))

    def prepare_search(self, counts: NDArray[np.int64]) -> None:
        """Put items into groups by their training interactions [V+1]."""
        self.group.copy_(popularity_groups(counts))

    def search(
        self, config: SearchSettings, windows: Windows, fabric: Fabric
    ) -> Iterator[tuple[int, int, int, float]]:
        """See :func:`search`."""
        return search(self, config, windows, fabric)

    def found(self) -> dict[str, Any]:
        """What the search found: size of each popularity group, and how many items have each size."""
        sizes = [self.sizes[index] for index in self.choice.tolist()]
        items = np.bincount(self.choice[self.group[1:]].cpu().numpy(), minlength=len(self.sizes))
        return {
            "groups": sizes,
            "items": {str(size): int(count) for size, count in zip(self.sizes, items, strict=True)},
        }

    def take(self, searched: AutoDim) -> None:
        """Have the sizes that another one found."""
        self.group.copy_(searched.group)
        self.choice.copy_(searched.choice)


def popularity_groups(counts: NDArray[np.int64]) -> Tensor:
    """The group of every item, [V+1] int64: tenths of the catalogue, the most popular first.

    Args:
        counts: training interactions of each item, [V+1].
    """
    order = np.argsort(-counts[1:], kind="stable")
    group = np.full(len(counts), GROUPS - 1, np.int64)
    group[order + 1] = np.arange(len(order)) * GROUPS // max(1, len(order))
    return torch.from_numpy(group)


def search(
    model: AutoDim, config: SearchSettings, windows: Windows, fabric: Fabric
) -> Iterator[tuple[int, int, int, float]]:
    """Learn the size of every group; yields (epoch, step, steps, loss) after every step.

    Weights of the sizes and the network are trained in turn on different batches (first-order bilevel
    optimisation). At the end ``model.choice`` holds each group's heaviest size; the network's own weights
    have served their purpose, for the recommender is trained anew.

    Args:
        model: on its device, with its groups set.
        config: search_epochs, seed, batch, lr, tau, clip.
        windows: training windows; nothing held out is read.
        fabric: for its device and precision. Every process searches on its own and finds the same.
    """
    device = fabric.device
    weights = nn.Parameter(torch.zeros(GROUPS, len(model.sizes), device=device))
    network = torch.optim.Adam(model.parameters(), config.lr, config.betas, fused=True)
    architecture = torch.optim.Adam([weights], ARCHITECTURE_LR)
    model.train()
    done = 0
    for epoch in range(config.search_epochs):
        rng = np.random.default_rng((config.seed, epoch, GROUPS))
        batches = list(length_buckets(windows.sizes, config.batch, rng))
        for number, rows in enumerate(batches):
            torch.manual_seed(config.seed * 1_000_003 + done)
            seq, targets = (torch.from_numpy(part).to(device) for part in windows.batch(rows))
            optimizer = architecture if number % ARCHITECTURE_EVERY == ARCHITECTURE_EVERY - 1 else network
            for group in network.param_groups:
                group["lr"] = config.lr * min(1.0, (done + 1) / max(1, config.warmup_steps))
            with fabric.autocast():
                mix = F.gumbel_softmax(weights, tau=config.tau)
                loss = model.loss(seq, targets.long(), targets, mix)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            for each in (network, architecture):
                each.zero_grad(set_to_none=True)
            done += 1
            yield epoch, number + 1, len(batches), float(loss.detach())
    model.choice.copy_(weights.detach().argmax(1))
