"""What several seeds and several users say about a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from canet_mobile.evaluate.metrics import Values

DRAWS = 5000
_CELLS_AT_A_TIME = 4_000_000


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of one figure per seed and its standard error over seeds.

    Returns:
        ``{"mean", "se", "values"}``; ``se`` is None for one seed, which tells nothing about it.
    """
    found = np.asarray(values, np.float64)
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
    return {"mean": float(found.mean()), "se": error, "values": [float(value) for value in found]}


def paired_bootstrap(first: Values, second: Values, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Mean of ``first - second`` per user with its 95 % interval over resampled users (percentiles).

    Few distinct differences exist (a rank within 10 or a miss on either side), so instead of n users each
    draw resamples how often each distinct difference occurs, which is the same distribution.

    Args:
        first, second: a metric of the same users in the same order, [n] float64; seeds averaged before.
        draws: bootstrap samples.
        seed: of the generator; the same inputs give the same interval.

    Returns:
        ``{"difference", "low", "high", "n"}``.
    """
    gaps, counts = np.unique(np.round(first - second, 12), return_counts=True)
    n = int(counts.sum())
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS_AT_A_TIME // len(gaps))
    means = np.concatenate(
        [
            generator.multinomial(n, counts / n, size=min(chunk, draws - start)) @ gaps / n
            for start in range(0, draws, chunk)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return {"difference": float(gaps @ counts / n), "low": float(low), "high": float(high), "n": n}


def signed(value: float) -> str:
    """A difference as text, four decimals; what rounds to nothing has no minus."""
    return f"{round(value, 4) + 0.0:+.4f}"


def mflops(cost: float) -> str:
    """A cost as text: one decimal, three for the very cheap."""
    return f"{cost:.1f}" if cost >= 1 else f"{cost:.3f}"


def differs(pair: dict[str, Any]) -> bool:
    """Whether the interval of a paired difference leaves out zero."""
    return pair["low"] > 0 or pair["high"] < 0
