"""How long a list of recommendations can be: what a catalogue leaves to those who have seen most of it."""

from __future__ import annotations

import numpy as np

from canet_mobile.data.dataset import Dataset

LIST_LENGTH = 20  # items of a list, where there are as many


def list_length(dataset: Dataset, length: int, seen: str, wanted: int = LIST_LENGTH) -> int:
    """Items that a list can hold for every history, ``wanted`` at most; 0 where one has nothing left.

    Args:
        dataset: whose items are recommended.
        length: input length L.
        seen: ``keep`` leaves the whole catalogue; ``exclude`` all but the distinct items of an input, and
            the input that holds most of them decides.
        wanted: how many would be enough.
    """
    items = dataset.num_items
    if seen == "keep":
        return min(wanted, items)
    longest = min(length, int(np.diff(dataset.offsets).max()))
    if items - longest >= wanted:  # even if none of them is there twice
        return wanted
    return min(wanted, items - _most_distinct(dataset, length))


def _most_distinct(dataset: Dataset, length: int) -> int:
    """Distinct items among the newest ``length`` of a history, the most of all histories."""
    sizes = np.diff(dataset.offsets)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    newest = np.arange(len(owner)) >= dataset.offsets[1:][owner] - length
    pairs = np.unique(owner[newest] * (dataset.num_items + 1) + dataset.items[newest])
    return int(np.bincount(pairs // (dataset.num_items + 1)).max())


def is_enough(k: int, top: int, *, items: int, length: int, seen: str) -> bool:
    """Whether lists of k items have a figure at ``top``: they are as long, or the catalogue has no more.

    Args:
        k: items of a list.
        top: for example the 10 of NDCG@10.
        items: of the catalogue.
        length: input length L; with ``exclude`` so many may be taken out of the catalogue.
        seen: ``keep`` or ``exclude``.
    """
    return k >= min(top, items if seen == "keep" else max(1, items - length))
