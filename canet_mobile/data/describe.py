"""What a dataset looks like, in the numbers that decide how a recommender will do on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import head_items, head_users, training_mask

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def describe(dataset: Dataset, *, top: int = 10) -> dict[str, Any]:
    """The description of a dataset, ready for JSON.

    Args:
        dataset: a loaded dataset.
        top: how many of the most frequent items to list.

    Returns:
        counts, density, history_length (quantiles and mean), repeats (shares, 0..1), time (ISO 8601, or
        None), head (paper: the top 20 % of the items), top_items, content_hash.
    """
    counts = dataset.manifest["counts"]
    repeated = seen_before(dataset)
    lengths = np.diff(dataset.offsets)
    head, users = head_items(dataset), head_users(dataset)
    return {
        "name": dataset.name,
        "directory": str(dataset.directory),
        "counts": dict(counts),
        "density": counts["interactions"] / (counts["histories"] * counts["items"]),
        "history_length": {
            **{name: int(np.quantile(lengths, share, method="lower")) for name, share in QUANTILES.items()},
            "mean": float(lengths.mean()),
        },
        "repeats": {
            "last_item": float(repeated[dataset.offsets[1:] - 1].mean()),
            "all_targets": float(repeated.sum() / (len(repeated) - dataset.num_histories)),
        },
        "time": _time_span(dataset),
        "head": {
            "items": int(head.sum()),
            "share_of_interactions": float(head[dataset.items[training_mask(dataset)]].mean()),
            "users": int(users.sum()),
            "tail_users": int((~users).sum()),
        },
        "top_items": _top_items(dataset, top),
        "content_hash": dataset.content_hash,
    }


def seen_before(dataset: Dataset) -> NDArray[np.bool_]:
    """True where an item stands earlier in the same history, [interactions] bool."""
    owner = np.repeat(np.arange(dataset.num_histories), np.diff(dataset.offsets))
    _, first = np.unique(owner * (dataset.num_items + 1) + dataset.items, return_index=True)
    seen = np.ones(len(dataset.items), bool)
    seen[first] = False
    return seen


def _time_span(dataset: Dataset) -> dict[str, Any] | None:
    """First and last time; None without times, and for times that are no dates (counters)."""
    times = dataset.times()
    if times is None:
        return None
    first, last = int(times.min()), int(times.max())
    try:
        begin, end = (_EPOCH + timedelta(microseconds=stamp) for stamp in (first, last))
    except OverflowError:
        return None
    return {"first": begin.isoformat(), "last": end.isoformat(), "days": (last - first) / 86_400e6}


def _top_items(dataset: Dataset, top: int) -> list[dict[str, Any]]:
    table = dataset.item_table()
    order = np.argsort(-table["count"].to_numpy(), kind="stable")[:top]
    return table[order.tolist()].to_dicts()
