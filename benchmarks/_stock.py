"""What a user would ship without canet-mobile: a plain SASRec of 8 blocks of 128, as ordinary PyTorch code.

`_stock_<target>.py` exports it with the toolkit's own recipe in fp32; latencies and sizes are set against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, DEPTH, HEADS = 128, 8, 4


class PlainBlock(nn.Module):
    """Post-LN transformer block: x [B, L, WIDTH], mask [B, 1, L, L] -> [B, L, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, width // HEADS).transpose(1, 2)
            for part in self.qkv(x).split(WIDTH, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return self.norm2(x + self.ffn(x))


class PlainSasrec(nn.Module):
    """seq [1, L] int -> (scores [1, k], ids [1, k]); the whole catalogue is ranked."""

    def __init__(self, items: int, length: int, k: int = 20) -> None:
        super().__init__()
        self.k = k
        self.items = nn.Embedding(items + 1, WIDTH)
        self.positions = nn.Parameter(torch.randn(length, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(DEPTH))
        self.classifier = nn.Linear(WIDTH, items + 1)
        self.register_buffer("causal", torch.full((1, 1, length, length), -1e4).triu(1))

    def forward(self, seq: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.causal + (seq == 0).to(torch.float32)[:, None, None, :] * -1e4
        x = self.items(seq) + self.positions
        for block in self.blocks:
            x = block(x, mask)
        values, ids = torch.topk(self.classifier(x[:, -1]), self.k)
        return values, ids


def plain_sasrec(items: int, length: int) -> PlainSasrec:
    """A random one in eval mode."""
    torch.manual_seed(0)
    return PlainSasrec(items, length).eval()
