"""Two models without weights that every results table is measured against: popularity and Markov.

Both are counted on the full training histories, all but the last two items of each, whatever split is asked;
the query is the split's own history. Ties go to the more popular item, then to the lower id. Nothing of size
V × V is ever built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import training_counts
from canet_mobile.data.split import HeldOut
from canet_mobile.data.transitions import transitions
from canet_mobile.evaluate.metrics import MISS
from canet_mobile.evaluate.scoring import TargetRanks, distinct_seen

QUERIES_AT_A_TIME = 2048

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Floors:
    """Counts of the training histories.

    Attributes:
        place: [V+1] int64, position of each item in the popularity list (0 is the most popular).
        starts: [V+2] int64; the successors of item a are ``items[starts[a]:starts[a + 1]]``.
        items: [pairs] int64, successors in ascending order within their row.
        counts: [pairs] int64, how often each was the next item.
    """

    place: Ints
    starts: Ints
    items: Ints
    counts: Ints

    @cached_property
    def _keys(self) -> Ints:
        width = len(self.place)
        return np.repeat(np.arange(width), np.diff(self.starts)) * width + self.items

    def count_of(self, last: Ints, item: Ints) -> Ints:
        """How often ``item`` followed ``last`` in training, elementwise: [n] int64."""
        wanted = last * len(self.place) + item
        if not len(self._keys):
            return np.zeros_like(wanted)
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[found] == wanted, self.counts[found], 0)


_Batch = Callable[[Floors, HeldOut, Ints], TargetRanks]


def count_training(dataset: Dataset) -> Floors:
    """Count popularity and first-order transitions of the training histories."""
    width = dataset.num_items + 1
    order = np.argsort(-training_counts(dataset)[1:], kind="stable") + 1
    place = np.full(width, width - 1, np.int64)
    place[order] = np.arange(width - 1)
    first, items, counts = transitions(dataset)
    starts = np.searchsorted(first, np.arange(width + 1))
    return Floors(place, starts, items, counts)


def _ranks(queries: HeldOut, rows: Ints, keep: Ints, strength: Callable[[Ints, Ints], Ints]) -> TargetRanks:
    """Both protocols from the ``keep`` ranks and the strength of any (row of the batch, item)."""
    targets = queries.targets[rows].astype(np.int64)
    seen_rows, seen_items = distinct_seen(queries, rows)
    above = strength(seen_rows, seen_items) > strength(np.arange(len(rows)), targets)[seen_rows]
    exclude = keep - np.bincount(seen_rows[above], minlength=len(rows))
    exclude[seen_rows[seen_items == targets[seen_rows]]] = MISS
    return TargetRanks(keep, exclude)


def _popularity_batch(floors: Floors, queries: HeldOut, rows: Ints) -> TargetRanks:
    keep = floors.place[queries.targets[rows]]
    return _ranks(queries, rows, keep, lambda _, items: -floors.place[items])


def _markov_batch(floors: Floors, queries: HeldOut, rows: Ints) -> TargetRanks:
    width = len(floors.place)
    last = queries.items[queries.ends[rows] - 1].astype(np.int64)
    targets = queries.targets[rows].astype(np.int64)

    def strength(batch_rows: Ints, items: Ints) -> Ints:
        """Orders items by count, then popularity: no two items of a row are equal."""
        return floors.count_of(last[batch_rows], items) * width - floors.place[items]

    sizes = floors.starts[last + 1] - floors.starts[last]
    owner = np.repeat(np.arange(len(rows)), sizes)
    pair = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + floors.starts[last][owner]
    own, place = strength(np.arange(len(rows)), targets), floors.place[targets]
    successors = floors.place[floors.items[pair]]
    above = np.bincount(owner[floors.counts[pair] * width - successors > own[owner]], minlength=len(rows))
    # A target that never followed stands among the other items that never did, by popularity.
    more_popular = np.bincount(owner[successors < place[owner]], minlength=len(rows))
    unseen = floors.count_of(last, targets) == 0
    return _ranks(queries, rows, above + np.where(unseen, place - more_popular, 0), strength)


def _in_batches(batch: _Batch, floors: Floors, queries: HeldOut) -> TargetRanks:
    ranks = TargetRanks.empty(len(queries))
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        rows = np.arange(start, min(start + QUERIES_AT_A_TIME, len(queries)))
        found = batch(floors, queries, rows)
        ranks.keep[rows], ranks.exclude[rows] = found.keep, found.exclude
    return ranks


def popularity_ranks(floors: Floors, queries: HeldOut) -> TargetRanks:
    """Rank every target by training popularity alone: [n]."""
    return _in_batches(_popularity_batch, floors, queries)


def markov_ranks(floors: Floors, queries: HeldOut) -> TargetRanks:
    """Rank every target by how often it followed the query's last item in training: [n].

    Items that never followed it come after, by popularity; so a last item without successors falls back to
    the popularity list.
    """
    return _in_batches(_markov_batch, floors, queries)
