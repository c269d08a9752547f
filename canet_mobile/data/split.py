"""The leave-one-out split: last item test, second-last validation, the rest training.

Nothing is copied: a split is a pair of positions into the dataset's flat item array per row, and batches
are gathered from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset

Split = Literal["validation", "test"]
MIN_HISTORY = 3  # one item to read, one to validate on, one to test on
_LEFT_OUT: dict[Split, int] = {"validation": 2, "test": 1}

Ints = NDArray[np.int64]
ItemIds = NDArray[np.int32]


def left_padded(items: ItemIds, starts: Ints, ends: Ints, width: int) -> ItemIds:
    """The newest ``width`` of each ``items[start:end]``, left-padded with 0: [n, width] int32."""
    index = ends[:, None] - width + np.arange(width)
    inside = index >= starts[:, None]
    return np.where(inside, items[np.where(inside, index, 0)], 0).astype(np.int32)


@dataclass(frozen=True)
class HeldOut:
    """Queries of one split: row n reads ``items[starts[n]:ends[n]]`` and must rank ``items[ends[n]]``."""

    items: ItemIds
    users: Ints
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.users)

    @property
    def targets(self) -> ItemIds:
        """The held-out item of each row, [n] int32."""
        return self.items[self.ends]

    def inputs(self, rows: Ints | slice, length: int) -> ItemIds:
        """Left-padded histories of some rows, [len(rows), length] int32."""
        return left_padded(self.items, self.starts[rows], self.ends[rows], length)

    def seen(self, rows: Ints) -> tuple[Ints, Ints]:
        """Every (row of the batch, seen item), from the whole history rather than the input window."""
        lengths = self.ends[rows] - self.starts[rows]
        batch_rows = np.repeat(np.arange(len(rows)), lengths)
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return batch_rows, self.items[np.repeat(self.starts[rows], lengths) + offsets].astype(np.int64)


def evenly_spaced(users: Ints, limit: int | None) -> Ints:
    """``limit`` of the users, evenly spaced, the first and the last among them; all if there are no more."""
    if limit is None or limit >= len(users):
        return users
    return users[np.linspace(0, len(users) - 1, limit).round().astype(np.int64)]


def held_out(dataset: Dataset, split: Split, *, limit: int | None = None) -> HeldOut:
    """The queries of a split.

    Args:
        dataset: the dataset; histories shorter than 3 are not in it.
        split: ``validation`` reads all but the last two items, ``test`` all but the last.
        limit: take this many users, evenly spaced, instead of all.
    """
    users = evenly_spaced(np.arange(dataset.num_histories, dtype=np.int64), limit)
    ends = dataset.offsets[users + 1] - _LEFT_OUT[split]
    return HeldOut(dataset.items, users, dataset.offsets[users], ends)


@dataclass(frozen=True)
class Windows:
    """Training rows: inputs ``items[start:end-1]``, targets one step later, at most ``length`` of each.

    Row n was cut from the history of number ``users[n]``.
    """

    items: ItemIds
    starts: Ints
    ends: Ints
    length: int
    users: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Ints:
        """Number of targets of each window, [n] int64."""
        return self.ends - self.starts - 1

    def batch(self, rows: Ints) -> tuple[ItemIds, ItemIds]:
        """Inputs and targets [n, T] int32, left-padded, T the longest of the rows."""
        width = int(self.sizes[rows].max())
        both = left_padded(self.items, self.starts[rows], self.ends[rows], width + 1)
        inputs, targets = both[:, :-1], both[:, 1:]
        return inputs, np.where(inputs > 0, targets, 0)


def training_targets(dataset: Dataset) -> Ints:
    """Targets that each history has in training, [histories]: all but its first item and the two held out."""
    return np.maximum(np.diff(dataset.offsets) - MIN_HISTORY, 0)


def training_windows(
    dataset: Dataset, length: int, *, last: int | None = None, moved: np.random.Generator | None = None
) -> Windows:
    """Cut every training history (all but its last two items) into windows, newest first.

    Every item but a history's first is a target exactly once. With ``moved``, the second window of a history
    of more than ``length`` targets ends at a place drawn within the newest one, and the others follow it:
    what both hold is a target twice, and with every draw other items stand at a window's ends.

    Args:
        dataset: the dataset.
        length: targets per window, at most.
        last: keep only each history's newest ``last`` windows; None keeps all.
        moved: draws where the windows of long histories end; None puts them end to end.
    """
    begin, stop = dataset.offsets[:-1], dataset.offsets[1:] - 2
    targets = training_targets(dataset)
    # How far before the newest window's end the second one ends.
    step = np.full(len(stop), length) if moved is None else moved.integers(1, length + 1, len(stop))
    count = np.where(targets > length, 1 - (step - targets) // length, targets > 0)
    if last is not None:
        count = np.minimum(count, last)
    owner = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    ends = stop[owner] - np.where(number > 0, step[owner] + (number - 1) * length, 0)
    starts = np.maximum(ends - length - 1, begin[owner])
    return Windows(dataset.items, starts, ends, length, owner)


def length_buckets(sizes: Ints, batch: int, generator: np.random.Generator | None = None) -> Iterator[Ints]:
    """Row numbers in batches of similar length, so that leading pads can be cut.

    Args:
        sizes: length of each row.
        batch: rows per batch.
        generator: shuffles neighbours and the order of the batches; None keeps both sorted.
    """
    if generator is None:
        order = np.argsort(sizes, kind="stable")
        yield from np.split(order, range(batch, len(order), batch))
        return
    order = np.argsort(sizes + 2 * generator.random(len(sizes)), kind="stable")
    batches = np.split(order, range(batch, len(order), batch))
    for number in generator.permutation(len(batches)):
        yield batches[number]
