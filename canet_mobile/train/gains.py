"""Which users gain from a larger route, by the supernet's own beliefs: labels that need no held-out item.

What one held-out item says about two routes is nearly all noise. Here the next item is drawn from what the
routes themselves predict (the mean of their softmaxes), which gives the EXPECTED NDCG@10 of every route's
list exactly, at every position of every history. Where two routes list the same items the difference is
zero, however unsure they are: such users gain nothing from the larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.scoring import distinct_seen, query_batches
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import PAD_CLASS_BIAS, Supernet
from canet_mobile.train.losses import CHUNK_SCORES

TOP = 10
JUDGED_ROWS = 256
LEAST_LOG = -1e4

Ints = NDArray[np.int64]
Values = NDArray[np.float64]


def discounts(device: torch.device) -> Tensor:
    """What each of the first ten places is worth, [10] float32."""
    return 1 / torch.log2(torch.arange(TOP, device=device) + 2.0)


@torch.no_grad()
def expected_ndcg(
    net: Supernet, states: Sequence[Tensor], seen: Tensor | None = None, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Expected NDCG@10 of each submodel's list when the next item follows the mean of their predictions.

    Args:
        net: the supernet, whose classifier scores the states.
        states: one [N, h] per submodel, at the same N positions.
        seen: item ids [N, T] that are not recommended, 0 for none.
        targets: item ids [N]; adds what one actual next item says.

    Returns:
        Expected NDCG@10, entropy in nats of each prediction, and NDCG@10 of the targets (zeros without them):
        three [submodels, N] float32.
    """
    n, worth = len(states[0]), discounts(states[0].device)
    rows = max(16, CHUNK_SCORES[states[0].device.type] // (net.config.items + 1))
    expected, entropy, actual = (states[0].new_zeros(len(states), n) for _ in range(3))
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        lists, belief = [], states[0].new_zeros(())
        for number, state in enumerate(states):
            scores = net.scores(state[part]).float()
            if seen is not None:
                scores = scores.scatter(1, seen[part], PAD_CLASS_BIAS)
            best = scores.topk(min(TOP, net.config.items), -1)
            lists.append(best.indices.masked_fill(best.values <= PAD_CLASS_BIAS, 0))  # seen: nothing shown
            log_p = scores.log_softmax(-1)
            p = log_p.exp()
            entropy[number, part] = -(p * log_p.clamp_min_(LEAST_LOG)).sum(-1)  # 0 × -inf is no number
            belief = belief + p / len(states)
        for number, found in enumerate(lists):
            places = worth[: found.shape[1]]
            expected[number, part] = belief.gather(1, found) @ places
            if targets is not None:
                actual[number, part] = (found == targets[part, None]).float() @ places
    return expected, entropy, actual


@dataclass(frozen=True)
class Judged:
    """Candidate routes on held-out users.

    Args:
        routes: route ids [c], ascending in cost.
        expected, entropy, actual: as :func:`expected_ndcg` returns them, [c, n] float64.
    """

    routes: tuple[int, ...]
    expected: Values
    entropy: Values
    actual: Values


def candidates(space: RoutingSpace) -> list[int]:
    """Routes a ladder may use: the smallest, and those of the widest embedding, which costs little."""
    return [n for n, r in enumerate(space) if r == space.smallest or r.embedding == space.largest.embedding]


@torch.no_grad()
def judge(net: Supernet, queries: HeldOut, seen: str) -> Judged:
    """Every candidate on every query; routes that differ in depth alone share their blocks.

    Args:
        net: the supernet in eval mode.
        queries: validation queries.
        seen: the run's protocol, ``keep`` or ``exclude``.
    """
    space, device = net.config.space, net.classifier_bias.device
    routes = candidates(space)
    found = np.zeros((3, len(routes), len(queries)))
    for rows, inputs in query_batches(net, queries, size=JUDGED_ROWS):
        states: dict[int, Tensor] = {}
        for embedding, hidden in dict.fromkeys(
            (space.routes[n].embedding, space.routes[n].hidden) for n in routes
        ):
            of_width = [
                n
                for n in routes
                if (space.routes[n].embedding, space.routes[n].hidden) == (embedding, hidden)
            ]
            depths = tuple(space.routes[n].depth for n in of_width)
            by_depth = net.sliced_depths(inputs, embedding, hidden, depths)
            states |= {n: state[:, -1] for n, state in zip(of_width, by_depth, strict=True)}
        targets = torch.from_numpy(queries.targets[rows].astype(np.int64)).to(device)
        hidden_items = _seen_items(queries, rows, device) if seen == "exclude" else None
        parts = expected_ndcg(net, [states[n] for n in routes], hidden_items, targets)
        found[:, :, rows] = torch.stack(parts).cpu().numpy()
    return Judged(tuple(routes), *found)


def _seen_items(queries: HeldOut, rows: Ints, device: torch.device) -> Tensor:
    """Every user's distinct items, [B, most] int64, 0 where a user has fewer."""
    batch_rows, items = distinct_seen(queries, rows)
    counts = np.bincount(batch_rows, minlength=len(rows))
    table = np.zeros((len(rows), max(1, int(counts.max(initial=0)))), np.int64)
    place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    table[batch_rows, place] = items
    return torch.from_numpy(table).to(device)


def seen_before(seq: Tensor) -> Tensor:
    """What each position has seen, itself included: [B, T] -> [B, T, T] int64, 0 for the rest."""
    length = seq.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=seq.device).tril()
    return torch.where(past, seq[:, None, :].long(), 0)
