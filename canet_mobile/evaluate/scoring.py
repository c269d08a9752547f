"""Ranks of held-out targets over the full catalogue, without sorting it.

Ranks count from 0; equal scores are ordered by item id, the lowest first. Two protocols are ranked from one
pass of scores:

* ``keep``: every item competes.
* ``exclude``: items of the user's whole history are never shown. A target that the user already had is then a
  miss (:data:`canet_mobile.evaluate.metrics.MISS`): the list cannot show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_mobile.accelerator import suited
from canet_mobile.data.split import HeldOut, length_buckets
from canet_mobile.evaluate.metrics import MISS, Ranks, summary
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED
from canet_mobile.model.recommender import Model, Recommender
from canet_mobile.model.supernet import Supernet

PROTOCOLS = ("keep", "exclude")
# Measured on a CPU: larger batches leave the cache. SCORE_ROWS rows or more share a read of the classifier.
BODY_ROWS = 128
SCORE_BYTES, SCORE_ROWS = 8 << 20, 64

Ints = NDArray[np.int64]
Progress = Callable[[int], None]  # called with the number of rows just finished


@dataclass(frozen=True)
class TargetRanks:
    """Rank of each row's target under both protocols, int64 of one shape ([n], or [routes, n])."""

    keep: Ranks
    exclude: Ranks

    @classmethod
    def empty(cls, *shape: int) -> TargetRanks:
        """Ranks to be filled in."""
        return cls(np.empty(shape, np.int64), np.empty(shape, np.int64))

    def __getitem__(self, index: Any) -> TargetRanks:
        """The same numpy index into both."""
        return TargetRanks(self.keep[index], self.exclude[index])

    def under(self, protocol: str) -> Ranks:
        """The ranks of one protocol."""
        return {"keep": self.keep, "exclude": self.exclude}[protocol]

    def summaries(self) -> dict[str, dict[str, float]]:
        """Every metric with its standard error under each protocol, as documents hold them."""
        return {protocol: summary(self.under(protocol)) for protocol in PROTOCOLS}


def distinct_seen(queries: HeldOut, rows: Ints) -> tuple[Ints, Ints]:
    """Every (row of the batch, seen item) once, sorted: two int64 arrays."""
    batch_rows, items = queries.seen(rows)
    width = int(items.max(initial=0)) + 1
    return np.divmod(np.unique(batch_rows * width + items), width)


def rank_in_scores(scores: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Ranks of the targets in given scores.

    Args:
        scores: [B, V+1] float; class 0 is padding and never competes. Column 0 is overwritten.
        targets: item ids [B] int64, 1..V.
        seen: every distinct (row, item) of the users' histories, two int64 tensors.

    Returns:
        ``keep`` and ``exclude`` ranks, [B] int64 each.
    """
    scores[:, 0] = -torch.inf
    own = scores.gather(1, targets[:, None])
    above = (scores > own).sum(1, dtype=torch.int32).long()
    tied = ((scores >= own).sum(1, dtype=torch.int32) > above + 1).nonzero()[:, 0]
    if len(tied):
        ids = torch.arange(scores.shape[1], device=scores.device)
        above[tied] += ((scores[tied] == own[tied]) & (ids < targets[tied, None])).sum(1)
    rows, items = seen
    score, limit = scores[rows, items], own[rows, 0]
    hidden = (score > limit) | ((score == limit) & (items < targets[rows]))
    exclude = above - torch.zeros_like(above).index_add_(0, rows, hidden.to(above.dtype))
    exclude[rows[items == targets[rows]]] = MISS
    return above, exclude


def score_chunks(
    model: Supernet | Recommender, states: Tensor, queries: HeldOut, rows: Ints
) -> Iterator[tuple[slice, Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """Scores of last-position states [B, h], about ``SCORE_BYTES`` at a time.

    Yields:
        Which of the rows, their scores [n, V+1] float32, targets [n] int64, and every distinct (row, seen
        item) of them, two int64 tensors.
    """
    device = states.device
    targets = torch.from_numpy(queries.targets[rows].astype(np.int64)).to(device)
    seen_rows, seen_items = (torch.from_numpy(part).to(device) for part in distinct_seen(queries, rows))
    chunk = max(SCORE_ROWS, suited(SCORE_BYTES, device) // (4 * model.classifier_bias.numel()))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        first, last = torch.searchsorted(seen_rows, torch.tensor([start, start + chunk], device=device))
        seen = seen_rows[first:last] - start, seen_items[first:last]
        yield part, model.scores(states[part]).float(), targets[part], seen


def _rank_states(model: Supernet | Recommender, states: Tensor, queries: HeldOut, rows: Ints) -> TargetRanks:
    """Ranks from last-position states [B, h]."""
    ranks = TargetRanks.empty(len(rows))
    for part, scores, targets, seen in score_chunks(model, states, queries, rows):
        keep, exclude = rank_in_scores(scores, targets, seen)
        ranks.keep[part], ranks.exclude[part] = keep.cpu().numpy(), exclude.cpu().numpy()
    return ranks


def query_batches(
    model: Supernet | Recommender, queries: HeldOut, rows: Ints | None = None, size: int | None = None
) -> Iterator[tuple[Ints, Tensor]]:
    """Rows (None for all) of similar history length, ``size`` at most, with their inputs.

    Without a size, as many as suit the device.

    Yields:
        Rows [B] int64 of ``queries``, and histories [B, T] on the model's device, leading pads cut.
    """
    length = model.config.length if isinstance(model, Supernet) else model.length
    rows = np.arange(len(queries)) if rows is None else rows
    sizes = np.minimum(queries.ends[rows] - queries.starts[rows], length)
    device = model.classifier_bias.device
    for picked in length_buckets(sizes, size or suited(BODY_ROWS, device)):
        batch = rows[picked]
        inputs = torch.from_numpy(queries.inputs(batch, max(1, int(sizes[picked].max()))))
        yield batch, inputs.to(device)


@torch.inference_mode()
def route_users(canet: Canet, queries: HeldOut, point: int = BALANCED) -> Ints:
    """The route id of every query at an operating point: argmax, the lowest id on ties. [n] int64."""
    ids = np.zeros(len(queries), np.int64)
    if canet.router is not None:
        for rows, inputs in query_batches(canet.supernet, queries):
            ids[rows] = canet.route(inputs, point).cpu().numpy()
    return ids


@torch.inference_mode()
def rank_targets(
    supernet: Supernet, queries: HeldOut, route_ids: Ints | Tensor, progress: Progress | None = None
) -> TargetRanks:
    """Rank every target with the submodel its row is routed to, at true size.

    Args:
        supernet: in eval mode.
        queries: the split.
        route_ids: a route id per row, [n] int64.
        progress: called with the number of rows after each batch.

    Returns:
        Ranks [n]; they do not depend on how rows are batched.
    """
    chosen = np.asarray(route_ids, dtype=np.int64)
    ranks = TargetRanks.empty(len(queries))
    for route_id in np.unique(chosen):
        route = supernet.config.space.routes[route_id]
        for rows, inputs in query_batches(supernet, queries, np.flatnonzero(chosen == route_id)):
            states = supernet.last_states(inputs, route)
            found = _rank_states(supernet, states, queries, rows)
            ranks.keep[rows], ranks.exclude[rows] = found.keep, found.exclude
            if progress is not None:
                progress(len(rows))
    return ranks


@torch.inference_mode()
def rank_all_routes(supernet: Supernet, queries: HeldOut, progress: Progress | None = None) -> TargetRanks:
    """Rank every target with every route: [routes, n]. Routes that differ in depth alone share their blocks.

    Args:
        supernet: in eval mode.
        queries: the split.
        progress: called with the number of (row, route) pairs after each batch.
    """
    space = supernet.config.space
    ranks = TargetRanks.empty(len(space), len(queries))
    widths = [(e, h) for e in space.embedding for h in space.hidden]
    for rows, inputs in query_batches(supernet, queries):
        for number, (embedding, hidden) in enumerate(widths):
            depths = supernet.sliced_depths(inputs, embedding, hidden, space.depth)
            for route_id, states in enumerate(depths, start=number * len(space.depth)):
                found = _rank_states(supernet, states[:, -1], queries, rows)
                ranks.keep[route_id, rows], ranks.exclude[route_id, rows] = found.keep, found.exclude
        if progress is not None:
            progress(len(rows) * len(space))
    return ranks


@torch.inference_mode()
def rank_model(model: Model, queries: HeldOut, progress: Progress | None = None) -> TargetRanks:
    """Rank every target as the model itself would: each user on the route, or the layers, it chooses. [n].

    Args:
        model: in eval mode.
        queries: the split.
        progress: called with the number of rows after each batch.
    """
    if isinstance(model, Canet):
        return rank_targets(model.supernet, queries, route_users(model, queries), progress)
    ranks = TargetRanks.empty(len(queries))
    for rows, inputs in query_batches(model, queries):
        users = torch.from_numpy(queries.users[rows]).to(inputs.device)
        found = _rank_states(model, model.last_states(inputs, users), queries, rows)
        ranks.keep[rows], ranks.exclude[rows] = found.keep, found.exclude
        if progress is not None:
            progress(len(rows))
    return ranks


@torch.inference_mode()
def request_mflops(model: Recommender, queries: HeldOut) -> NDArray[np.float64]:
    """Paper MFLOPs of every query, [n]."""
    costs = np.empty(len(queries))
    for rows, inputs in query_batches(model, queries):
        costs[rows] = model.mflops(inputs)
    return costs
