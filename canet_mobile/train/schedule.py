"""What each step of an epoch trains on, and how far it goes; the same again after a resume."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import Windows, length_buckets, training_windows
from canet_mobile.run.config import TrainConfig

MOVED = 1  # the stream of random numbers that places windows


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``final_lr`` × ``lr`` at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return config.lr * warm * (config.final_lr + (1 - config.final_lr) * cosine)


def epoch_windows(dataset: Dataset, config: TrainConfig, epoch: int) -> Windows:
    """The windows of one epoch, the same in every process and after a resume."""
    moved = np.random.default_rng((config.seed, epoch, MOVED)) if config.moving else None
    return training_windows(dataset, config.length, last=config.windows or None, moved=moved)


def epoch_batches(
    windows: Windows, config: TrainConfig, epoch: int, *, process: int = 0, processes: int = 1
) -> list[NDArray[np.int64]]:
    """Rows of one process's batches of one epoch; every process gets the same number of batches."""
    rng = np.random.default_rng((config.seed, epoch))
    batches = list(length_buckets(windows.sizes, config.batch, rng))
    usable = len(batches) // processes * processes
    return batches[process:usable:processes] or batches[:1]
