"""Head and tail: which items, and which users, the popular fifth of the catalogue serves.

Only training interactions are counted (all but the last two of every history), so nothing that is
held out decides who belongs where.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset

HEAD_SHARE = 0.2  # of the items, as in the paper
_HELD_OUT = 2


def training_mask(dataset: Dataset) -> NDArray[np.bool_]:
    """True where an interaction is for training, [interactions] bool."""
    mask = np.ones(len(dataset.items), bool)
    ends = dataset.offsets[1:]
    for back in range(1, _HELD_OUT + 1):
        mask[ends - back] = False
    return mask


def training_counts(dataset: Dataset) -> NDArray[np.int64]:
    """Training interactions of each item, [V + 1] int64; entry 0 (padding) is 0."""
    return np.bincount(dataset.items[training_mask(dataset)], minlength=dataset.num_items + 1)


def head_items(dataset: Dataset) -> NDArray[np.bool_]:
    """The most popular 20 % of the items (rounded up; the lower id on ties), [V + 1] bool."""
    order = np.argsort(-training_counts(dataset)[1:], kind="stable") + 1
    head = np.zeros(dataset.num_items + 1, bool)
    head[order[: int(np.ceil(HEAD_SHARE * dataset.num_items))]] = True
    return head


def head_users(dataset: Dataset) -> NDArray[np.bool_]:
    """Histories of whose training items at least half are head items, [N] bool; the others are tail."""
    on_head = head_items(dataset)[dataset.items] & training_mask(dataset)
    total = np.concatenate([[0], np.cumsum(on_head)])
    inside = total[dataset.offsets[1:]] - total[dataset.offsets[:-1]]
    return 2 * inside >= np.diff(dataset.offsets) - _HELD_OUT
