"""Entries at a length: a route, or the router, over the newest n positions.

Positions are aligned to the newest item and padding is masked, so the submodel over the last n positions
answers every history of at most n items as it does over all L. A package holds each entry at a few lengths
over the same stored weights; whoever calls one takes the shortest that holds the history.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_SHORTER = 3


def entry_at(entry: str, length: int, longest: int) -> str:
    """The name of an entry at a length: its own at the longest, ``e64_h64_d2_n8`` at 8 positions."""
    return entry if length == longest else f"{entry}_n{length}"


def held(seq: NDArray[np.int32]) -> int:
    """Items of a left-padded history [L], from its oldest one on."""
    items = np.flatnonzero(seq)
    return len(seq) - int(items[0]) if len(items) else 0


def cut_to(seq: NDArray[np.int32], items: int) -> NDArray[np.int32]:
    """A left-padded history [L] with its newest items alone, padding before them."""
    return np.where(np.arange(len(seq)) < len(seq) - items, 0, seq).astype(np.int32)


def shortest(lengths: Sequence[int], items: int) -> int:
    """The shortest of the lengths, ascending, that holds so many items; the longest for what is longer."""
    return next((length for length in lengths if length >= items), lengths[-1])
