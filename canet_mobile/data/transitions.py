"""Which item followed which in the training histories, counted: what Markov chains and neighbours rest on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import training_mask

Ints = NDArray[np.int64]


def transitions(dataset: Dataset, distance: int = 1) -> tuple[Ints, Ints, Ints]:
    """Pairs of training items that stand ``distance`` places apart in one history, each pair once.

    Nothing of size V × V is built.

    Args:
        dataset: only what training sees is counted, all but the last two items of every history.
        distance: 1 for an item and the next one.

    Returns:
        The earlier items, the later items, and how often the pair occurs: [pairs] int64 each, ascending by
        the earlier item, then by the later.
    """
    width = dataset.num_items + 1
    owners = np.repeat(np.arange(dataset.num_histories), np.diff(dataset.offsets))
    mask = training_mask(dataset)
    items, owners = dataset.items[mask].astype(np.int64), owners[mask]
    together = owners[distance:] == owners[:-distance]
    keys, counts = np.unique(
        items[:-distance][together] * width + items[distance:][together], return_counts=True
    )
    before, after = np.divmod(keys, width)
    return before, after, counts.astype(np.int64)
