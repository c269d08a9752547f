"""One transformer block in its two equal forms: sliced (true size) and masked (full width, gated).

Both rest on one definition of a submodel: the PREFIX of every weight. Heads are interleaved (channel c
belongs to head c mod 4), so that a prefix of the channels is a prefix of every head and slicing means the
same thing in training and on the phone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_mobile.model.space import FFN, HEADS

LAYER_NORM_EPS = 1e-5
# -1e9 becomes -inf in fp16 and NaN on rows that are all padding. A future key is masked harder than a pad,
# so that even a padding row, whose allowed keys are all pads, never looks into the future.
MASK_PAD = -1e4
MASK_FUTURE = -2e4


class Block(nn.Module):
    """Weights of one block {4-head attention, FFN}, post-LN with learnable residual (paper Eq. 1).

    Shapes, for width H: qkv_weight [3, H, H], qkv_bias [3, H], out_weight [H, H], ffn1_weight [4H, H],
    ffn2_weight [H, 4H], norms [H], residual1/residual2 scalars, which start at ``residual``.

    With ``identity`` the value and output projections start as the identity: attention begins as a mean of
    the history's own embeddings, a signal, where random projections are noise that λ learns to shut out.
    """

    def __init__(self, width: int, residual: float = 0.0, *, identity: bool = False) -> None:
        super().__init__()

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * math.sqrt(2 / (shape[-1] + shape[-2])))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape))

        self.qkv_weight, self.qkv_bias = weight(3, width, width), zeros(3, width)
        self.out_weight, self.out_bias = weight(width, width), zeros(width)
        self.ffn1_weight, self.ffn1_bias = weight(FFN * width, width), zeros(FFN * width)
        self.ffn2_weight, self.ffn2_bias = weight(width, FFN * width), zeros(width)
        self.norm1_weight, self.norm1_bias = nn.Parameter(torch.ones(width)), zeros(width)
        self.norm2_weight, self.norm2_bias = nn.Parameter(torch.ones(width)), zeros(width)
        if identity:
            with torch.no_grad():
                self.qkv_weight[2] = torch.eye(width)
                self.out_weight.copy_(torch.eye(width))
        self.residual1 = nn.Parameter(torch.tensor(residual))
        self.residual2 = nn.Parameter(torch.tensor(residual))


def new_blocks(depth: int, width: int, residual: float, power: float) -> nn.ModuleList:
    """``depth`` blocks whose residual weights λ start at ``residual`` / n^``power``, n = 1 for the first one.

    With ``power`` 1 the first blocks, which every route has, act from the first step, and the deep ones
    open later: eight post-LN blocks of full weight do not learn at all for some epochs. Unless ``residual``
    is 0, attention starts as a mean of the history.
    """
    return nn.ModuleList(
        Block(width, residual / n**power, identity=residual != 0) for n in range(1, depth + 1)
    )


def attention_bias(seq: Tensor) -> Tensor:
    """Additive mask [B, 1, T, T] float32 for left-padded item ids ``seq`` [B, T]."""
    length = seq.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=seq.device).triu(1)
    pad = torch.zeros(seq.shape, device=seq.device).masked_fill_(seq == 0, MASK_PAD)
    return pad[:, None, None, :] + torch.zeros_like(future, dtype=pad.dtype).masked_fill_(future, MASK_FUTURE)


def head_major(weight: Tensor, dim: int) -> Tensor:
    """Reorder interleaved channels along ``dim`` so that each head's channels stand together."""
    dim %= weight.dim()
    return weight.unflatten(dim, (-1, HEADS)).transpose(dim, dim + 1).flatten(dim, dim + 1)


class _ByteDropout(torch.autograd.Function):
    """Dropout whose mask costs one random byte an element: on a CPU eight times less than a Bernoulli."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        drop = round(256 * p)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        ctx.keep = (words.view(torch.uint8)[: x.numel()] >= drop).view(x.shape)
        ctx.scale = 256 / (256 - drop)
        return (x * ctx.keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad * ctx.keep).mul_(ctx.scale), None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Inverted dropout; on a CPU ``p`` is rounded to a multiple of 1/256."""
    if not training or p == 0:
        return x
    return F.dropout(x, p, True) if x.is_cuda else _ByteDropout.apply(x, p)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Attention over head-major channels: q [B, Q, H], k and v [B, T, H] -> [B, Q, H], head-major."""
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=scale)
    return mixed.transpose(1, 2).flatten(-2)


def block_sliced(
    block: Block,
    x: Tensor,
    bias: Tensor,
    hidden: int,
    p: float,
    training: bool,
    *,
    last: bool = False,
) -> Tensor:
    """The block as its submodel of width ``hidden``: x [B, T, hidden] -> the same shape.

    With ``last`` only the last position is computed (it still attends to all): [B, 1, hidden].
    """
    h, inner = hidden, FFN * hidden
    qkv_weight = head_major(block.qkv_weight[:, :h, :h], 1).flatten(0, 1)
    qkv_bias = head_major(block.qkv_bias[:, :h], 1).flatten()
    if last:
        k, v = F.linear(x, qkv_weight[h:], qkv_bias[h:]).chunk(2, -1)
        x, bias = x[:, -1:], bias[:, :, -1:]
        q = F.linear(x, qkv_weight[:h], qkv_bias[:h])
    else:
        q, k, v = F.linear(x, qkv_weight, qkv_bias).chunk(3, -1)
    mixed = attend(q, k, v, bias, None)
    out = F.linear(mixed, head_major(block.out_weight[:h, :h], 1), block.out_bias[:h])
    x = x + block.residual1 * dropout(out, p, training)
    x = F.layer_norm(x, (h,), block.norm1_weight[:h], block.norm1_bias[:h], LAYER_NORM_EPS)
    inside = F.gelu(F.linear(x, block.ffn1_weight[:inner, :h], block.ffn1_bias[:inner]))
    out = F.linear(dropout(inside, p, training), block.ffn2_weight[:h, :inner], block.ffn2_bias[:h])
    x = x + block.residual2 * dropout(out, p, training)
    return F.layer_norm(x, (h,), block.norm2_weight[:h], block.norm2_bias[:h], LAYER_NORM_EPS)


class Gates:
    """Prefix masks of one route per row, differentiable in the route weights.

    Built from ``alpha`` [B, routes], one-hot rows that may carry straight-through gradients (paper Eq. 6).
    Masks are [B, 1, width]; ``hidden`` is the row's true width [B, 1, 1], a constant.
    """

    def __init__(self, alpha: Tensor, embedding: Tensor, hidden: Tensor, embedding_width: int, width: int):
        def prefixes(sizes: Tensor, channels: Tensor) -> Tensor:
            return (alpha @ (channels < sizes[:, None]).to(alpha.dtype))[:, None]

        channel = torch.arange(width, device=alpha.device)
        self.embedding = prefixes(embedding, torch.arange(embedding_width, device=alpha.device))
        self.channels = prefixes(hidden, channel)
        self.heads = prefixes(hidden, head_major(channel, 0))
        self.inner = prefixes(FFN * hidden, torch.arange(FFN * width, device=alpha.device))
        self.hidden = (alpha.detach() @ hidden.to(alpha.dtype)).round()[:, None, None]


def norm_masked(x: Tensor, gates: Gates, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over each row's own first ``hidden`` channels; the others stay zero."""
    centred = (x - x.sum(-1, keepdim=True) / gates.hidden) * gates.channels
    scale = torch.rsqrt((centred * centred).sum(-1, keepdim=True) / gates.hidden + LAYER_NORM_EPS)
    return torch.addcmul(bias * gates.channels, centred * scale, weight)


def block_masked(block: Block, x: Tensor, bias: Tensor, gates: Gates, p: float, training: bool) -> Tensor:
    """The block at full width with every channel beyond a row's prefix held at zero: [B, T, H]."""
    qkv_weight = head_major(block.qkv_weight, 1).flatten(0, 1)
    q, k, v = F.linear(x, qkv_weight, head_major(block.qkv_bias, 1).flatten()).chunk(3, -1)
    # The scale 1/sqrt(hidden/4) is the row's own, so it is folded into q.
    q = q * (gates.heads / (gates.hidden / HEADS).sqrt())
    mixed = attend(q, k, v, bias, 1.0) * gates.heads
    out = F.linear(mixed, head_major(block.out_weight, 1), block.out_bias)
    x = x + block.residual1 * (dropout(out, p, training) * gates.channels)
    x = norm_masked(x, gates, block.norm1_weight, block.norm1_bias)
    inside = F.gelu(F.linear(x, block.ffn1_weight, block.ffn1_bias))
    out = F.linear(dropout(inside, p, training) * gates.inner, block.ffn2_weight, block.ffn2_bias)
    x = x + block.residual2 * (dropout(out, p, training) * gates.channels)
    return norm_masked(x, gates, block.norm2_weight, block.norm2_bias)
