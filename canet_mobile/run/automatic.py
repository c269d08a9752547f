"""What ``auto`` means: settings that the data set decides, before a run begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.lists import list_length
from canet_mobile.data.split import HeldOut, held_out, training_targets
from canet_mobile.run.config import TrainConfig

RARE_RETURNS = 0.01  # below this share of returning users, an app would not show an item twice
RARE_AT_ONCE = 0.1  # share of the returns that are to the item just consumed


def settled(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """The configuration with every ``auto`` that the data set decides replaced by what it decides.

    Where no window can move, ``moving`` is false: two runs that do the same then say the same.
    """
    seen = seen_protocol(config, dataset)
    tied = "true" if ties(replace(config, seen=seen), dataset) else "false"
    return replace(config, seen=seen, tied=tied, moving=config.moving and windows_move(config, dataset))


def windows_move(config: TrainConfig, dataset: Dataset) -> bool:
    """Whether any history is cut into several windows, of which all but the newest can be cut elsewhere."""
    return config.windows != 1 and bool((training_targets(dataset) > config.length).any())


def seen_protocol(config: TrainConfig, dataset: Dataset) -> str:
    """The protocol validation is judged by: ``exclude`` where validation targets were rarely seen before.

    Where it would leave somebody nothing to be shown, items are kept.
    """
    if config.seen != "auto":
        return config.seen
    if not list_length(dataset, config.length, "exclude", wanted=1):
        return "keep"
    queries = held_out(dataset, "validation")
    return "keep" if len(_returns(queries)) > RARE_RETURNS * len(queries) else "exclude"


def ties(config: TrainConfig, dataset: Dataset) -> bool:
    """Whether a model scores items with the table it reads them from.

    That halves what there is to learn, and was better on every set tried but one. A tied model ranks highest
    what a user has just consumed. Where seen items are shown, people come back to them, but hardly ever at
    once, that costs more than it gives, and the model gets a classifier of its own.

    Args:
        config: its seen protocol must be settled.
        dataset: its validation targets are asked who came back, and to what.
    """
    if config.tied != "auto":
        return config.is_tied
    if config.model == "fpmc" or config.embedding[-1] != config.hidden[-1]:
        return False
    if config.seen == "exclude":
        return True
    queries = held_out(dataset, "validation")
    at_once = np.count_nonzero(queries.items[queries.ends - 1] == queries.targets)
    return bool(at_once > RARE_AT_ONCE * len(_returns(queries)))


def _returns(queries: HeldOut) -> np.ndarray:
    """Rows whose target is among the user's earlier items."""
    rows, items = queries.seen(np.arange(len(queries)))
    return np.unique(rows[items == queries.targets[rows]])
