"""NDCG@k and Recall@k of one held-out target per user, from the target's rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KS = (10, 20)
MISS = np.iinfo(np.int64).max  # the rank of a target that the list may not show

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


def recall(ranks: Ranks, k: int) -> Values:
    """Recall@k per user, [n] float64: 1 where the target is among the first k (ranks count from 0)."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Values:
    """NDCG@k per user, [n] float64: 1 / log2(rank + 2) within the first k, else 0."""
    hit = ranks < k
    return np.where(hit, 1 / np.log2(np.where(hit, ranks, 0) + 2.0), 0.0)


METRICS = {
    f"{name}@{k}": (function, k) for k in KS for name, function in (("ndcg", ndcg), ("recall", recall))
}


def metric(ranks: Ranks, name: str) -> Values:
    """A metric per user by its name, for example ``ndcg@10``: [n] float64."""
    function, k = METRICS[name]
    return function(ranks, k)


def standard_error(values: Values) -> float:
    """Standard error of the mean over users; 0 for fewer than two."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def summary(ranks: Ranks) -> dict[str, float]:
    """Mean of every metric, with the standard error of each under ``se_<metric>``; 0 for no users."""
    means, errors = {}, {}
    for name in METRICS:
        values = metric(ranks, name)
        means[name] = float(values.mean()) if len(values) else 0.0
        errors[f"se_{name}"] = standard_error(values)
    return means | errors
