"""FPMC: factorised personalised Markov chains, trained with BPR on sampled pairs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.model.compared.sizes import Sizes
from canet_mobile.model.costs import fpmc_paper_macs, table_mflops
from canet_mobile.model.supernet import PAD_CLASS_BIAS

INITIAL_STD = 0.1  # BPR starts from the difference of two scores, which must not vanish


class FPMC(nn.Module):
    """Score of item i after item l for user u: <U_u, A_i> + <L_l, B_i>.

    The two products are one, of a state [U_u, L_l] with an item [A_i, B_i]. Leave-one-out meets the same
    users in training and test, so each has factors of its own.

    Parameters: user_table [users, d], last_table [V+1, d], item_table [V+1, 2d].
    """

    name = "fpmc"
    rule: str | None = None

    def __init__(self, config: Sizes, items: int, users: int) -> None:
        super().__init__()
        self.items, self.length, self.width = items, config.length, config.embedding[-1]
        self.user_table = nn.Parameter(torch.randn(users, self.width) * INITIAL_STD)
        self.last_table = nn.Parameter(torch.randn(items + 1, self.width) * INITIAL_STD)
        self.item_table = nn.Parameter(torch.randn(items + 1, 2 * self.width) * INITIAL_STD)

    @property
    def classifier_bias(self) -> Tensor:
        """Zero for every item, [V+1]."""
        bias = self.item_table.new_zeros(self.items + 1)
        bias[0] = PAD_CLASS_BIAS
        return bias

    def states(self, seq: Tensor, users: Tensor) -> Tensor:
        """[U_u, L_l] after every item: [B, T, 2d]."""
        own = F.embedding(users, self.user_table)[:, None].expand(-1, seq.shape[1], -1)
        return torch.cat([own, F.embedding(seq, self.last_table)], -1)

    def last_states(self, seq: Tensor, users: Tensor) -> Tensor:
        """[U_u, L_l] after the newest item: [B, 2d]."""
        return self.states(seq[:, -1:], users)[:, -1]

    def scores(self, states: Tensor) -> Tensor:
        """[B, 2d] -> [B, V+1]."""
        return F.linear(states, self.item_table, self.classifier_bias)

    def loss(self, seq: Tensor, targets: Tensor, users: Tensor) -> dict[str, Tensor]:
        """BPR: every target against one other item, drawn uniformly."""
        real = seq > 0
        states, wanted = self.states(seq, users)[real], targets[real]
        drawn = torch.randint(1, self.items, wanted.shape, device=seq.device)
        other = drawn + (drawn >= wanted).long()  # every item but the target is as likely
        pair = F.embedding(torch.stack([wanted, other]), self.item_table)
        better, worse = (states * pair).sum(-1)
        return {"loss": -F.logsigmoid(better - worse).mean()}

    def mflops(self, seq: Tensor) -> NDArray[np.float64]:
        """The same for every request: 2d MACs an item."""
        return np.full(len(seq), table_mflops(fpmc_paper_macs(self.items, self.width)))
