"""SkipRec: a policy network decides for every user which layers of a SASRec to skip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.model.compared.catalogue import INITIAL_STD, Catalogue, normalised
from canet_mobile.model.compared.sizes import Sizes
from canet_mobile.model.costs import skiprec_paper_macs, table_mflops
from canet_mobile.model.layers import Block, attention_bias, block_sliced, dropout, new_blocks
from canet_mobile.model.router import ROUTER_WIDTH, Router, RouterConfig


class SkipRec(nn.Module):
    """A SASRec of 8 blocks of 128 in which each block may be left out, one decision a user and block.

    The policy is a network like CANet's router with two logits a block, skip and keep. Training samples from
    them (Gumbel-softmax, straight-through); inference takes the larger, skip on ties, and computes only the
    blocks that are kept. The embedding is normalised, so that states have one scale whatever is skipped.
    """

    name = "skiprec"
    rule: str | None = "SkipRec's policy network, a decision per layer"

    def __init__(self, config: Sizes, items: int, users: int) -> None:
        super().__init__()
        self.items, self.length, self.dropout = items, config.length, config.dropout
        self.width, self.depth = config.hidden[-1], config.depth[-1]
        self.tau, self.weight = config.tau, config.lambda_skip
        self.catalogue = Catalogue(items, self.width, tied=config.is_tied)
        self.positions = nn.Parameter(torch.randn(config.length, self.width) * INITIAL_STD)
        self.blocks = new_blocks(self.depth, self.width, config.residual, config.residual_power)
        table: Any = config.router_table
        policy_width = min(ROUTER_WIDTH, self.width // 4 * 4)
        self.policy = Router(RouterConfig(items, config.length, 2 * self.depth, table, width=policy_width))

    @property
    def classifier_bias(self) -> Tensor:
        """[V+1]."""
        return self.catalogue.classifier_bias

    def decisions(self, seq: Tensor) -> Tensor:
        """Logits of skipping and keeping each block: [B, depth, 2] float32."""
        return self.policy(seq, self.catalogue.item_table).float().unflatten(-1, (self.depth, 2))

    def kept(self, seq: Tensor) -> Tensor:
        """The blocks each user keeps: [B, depth] bool."""
        skip, keep = self.decisions(seq).unbind(-1)
        return keep > skip

    def _start(self, seq: Tensor) -> Tensor:
        x = self.catalogue.embed(seq) + self.positions[-seq.shape[1] :]
        x = dropout(x, self.dropout, self.training)
        return normalised(x)

    def _block(self, number: int, x: Tensor, bias: Tensor) -> Tensor:
        block: Block = self.blocks[number]  # type: ignore[assignment]
        return block_sliced(block, x, bias, self.width, self.dropout, self.training)

    def gated(self, seq: Tensor, keep: Tensor) -> Tensor:
        """States [B, T, width] with every block computed, differentiable in ``keep`` [B, depth], 0 or 1."""
        x, bias = self._start(seq), attention_bias(seq)
        for number in range(self.depth):
            x = torch.lerp(x, self._block(number, x, bias), keep[:, number, None, None].to(x.dtype))
        return x

    def states(self, seq: Tensor, keep: Tensor) -> Tensor:
        """States [B, T, width] with the blocks of ``keep`` [B, depth] bool computed and no others."""
        x, bias = self._start(seq), attention_bias(seq)
        for number in range(self.depth):
            rows = keep[:, number].nonzero()[:, 0]
            if len(rows):
                x = x.index_copy(0, rows, self._block(number, x[rows], bias[rows]))
        return x

    def last_states(self, seq: Tensor, users: Tensor) -> Tensor:
        """[B, width] after the newest item, each user with the blocks the policy keeps."""
        return self.states(seq, self.kept(seq))[:, -1]

    def scores(self, states: Tensor) -> Tensor:
        """[B, width] -> [B, V+1]."""
        return self.catalogue.scores(states)

    def loss(self, seq: Tensor, targets: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the catalogue, and ``lambda_skip`` × the share of blocks that were kept."""
        keep = F.gumbel_softmax(self.decisions(seq), tau=self.tau, hard=True)[..., 1]
        recommend = self.catalogue.loss(self.gated(seq, keep), seq, targets)
        share = keep.mean()
        return {
            "loss": recommend + self.weight * share,
            "recommend": recommend.detach(),
            "kept": share.detach(),
        }

    def mflops(self, seq: Tensor) -> NDArray[np.float64]:
        """By the number of blocks a user keeps, the policy network included."""
        macs = [
            skiprec_paper_macs(self.items, self.length, self.width, self.depth, n)
            for n in range(self.depth + 1)
        ]
        costs = np.array([table_mflops(m) for m in macs])
        return costs[self.kept(seq).sum(1).cpu().numpy()]
