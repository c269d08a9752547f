"""Which interactions stay: the iterative filter and the cut into sessions, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Dropped:
    """Interactions dropped for each reason, and how many rounds it took until nothing changed."""

    rare_items: int
    short_histories: int
    rounds: int


def iterative_filter(
    users: Codes, items: Codes, min_item_count: int, min_history: int
) -> tuple[Mask, Dropped]:
    """Drop rare items and short histories, again and again, until neither is left.

    An item is rare when fewer than ``min_item_count`` different users have it (the paper's rule; repeats
    by one user count once). A history is short when fewer than ``min_history`` of its interactions stay,
    repeats included. The result is the largest log in which both hold, so the order does not matter.

    Args:
        users: [n] int32 code of each interaction's user.
        items: [n] int32 code of each interaction's item.

    Returns:
        [n] bool, true where the interaction stays; and what was dropped.
    """
    num_users, num_items = int(users.max(initial=-1)) + 1, int(items.max(initial=-1)) + 1
    keep = np.ones(len(users), bool)
    keep_user, keep_item = np.ones(num_users, bool), np.ones(num_items, bool)
    pair_users, pair_items = _distinct_pairs(users, items, num_items)
    rare = short = rounds = 0
    while True:
        rounds += 1
        before = int(keep.sum())
        keep_item &= np.bincount(pair_items[keep_user[pair_users]], minlength=num_items) >= min_item_count
        keep &= keep_item[items]
        between = int(keep.sum())
        keep_user &= np.bincount(users[keep], minlength=num_users) >= min_history
        keep &= keep_user[users]
        after = int(keep.sum())
        rare, short = rare + before - between, short + between - after
        if after == before:
            return keep, Dropped(rare, short, rounds)
        still = keep_item[pair_items]
        pair_users, pair_items = pair_users[still], pair_items[still]


def _distinct_pairs(users: Codes, items: Codes, num_items: int) -> tuple[Codes, Codes]:
    """Every (user, item) once."""
    keys = users.astype(np.int64) * num_items + items
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    return (keys // max(num_items, 1)).astype(np.int32), (keys % max(num_items, 1)).astype(np.int32)


def cut_sessions(offsets: Ints, times: Ints | None, length: int, gap_us: int | None) -> tuple[Ints, Ints]:
    """Cut every history into consecutive sessions of exactly ``length`` items, from the oldest item on.

    What is left at the end of a history (fewer than ``length`` items) is dropped, and so is a session
    whose last two items are more than ``gap_us`` apart: its target does not follow from its input.

    Args:
        offsets: [U + 1] int64 bounds of the histories.
        times: [n] int64 microseconds; needed for the gap.
        length: items per session.
        gap_us: the largest gap in microseconds, or None for no such rule.

    Returns:
        Owner and start of every session, both [S] int64.
    """
    count = np.diff(offsets) // length
    owner = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    starts = offsets[owner] + number * length
    if gap_us is not None and times is not None:
        close = times[starts + length - 1] - times[starts + length - 2] <= gap_us
        owner, starts = owner[close], starts[close]
    return owner, starts
