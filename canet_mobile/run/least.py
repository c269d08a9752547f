"""The least that can be trained on, and what is said of a small catalogue."""

from __future__ import annotations

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.lists import LIST_LENGTH, list_length
from canet_mobile.data.split import MIN_HISTORY
from canet_mobile.errors import CanetError
from canet_mobile.run.config import TrainConfig

# A history gives its last item to the test and the one before it to the
# validation; of what is left, the first has nothing before it to be learnt from.
LEAST_HISTORIES, LEAST_ITEMS, LEAST_LENGTH = 2, 2, MIN_HISTORY + 1


def refuse_small(dataset: Dataset, config: TrainConfig) -> None:
    """Refuse data sets on which training could not mean anything.

    Raises:
        CanetError: fewer than :data:`LEAST_HISTORIES` histories or :data:`LEAST_ITEMS` items, no history of
            :data:`LEAST_LENGTH` items, or too few items for the guide of the paper's recipe.
    """
    if dataset.num_histories < LEAST_HISTORIES:
        raise CanetError(
            f"holds {dataset.num_histories} history; training needs at least {LEAST_HISTORIES}",
            where=dataset.directory,
            fix="import the log again with the --user column that tells its histories apart",
        )
    if dataset.num_items < LEAST_ITEMS:
        raise CanetError(
            f"holds {dataset.num_items} item; training needs at least {LEAST_ITEMS}, or there is no choice",
            where=dataset.directory,
            fix="import the log again with a lower --min-item-count, or another --item column",
        )
    longest = int(np.diff(dataset.offsets).max())
    if longest < LEAST_LENGTH:
        raise CanetError(
            f"its longest history holds {longest} items; training needs one of at least {LEAST_LENGTH}: an "
            "item to begin with, one to learn from, one to validate on, one to test on",
            where=dataset.directory,
            fix="import a log of longer histories, or with a longer --session-length",
        )
    guided = config.model == "canet" and config.recipe == "paper"
    if guided and dataset.num_items <= config.guide_k:
        raise CanetError(
            f"holds {dataset.num_items} items, not more than guide_k = {config.guide_k}",
            where=dataset.directory,
            fix=f"--set guide_k={max(1, dataset.num_items // 10)}",
        )


def list_note(dataset: Dataset, config: TrainConfig) -> str | None:
    """What to say of the lists that a package of this model can return; None where they are as long as ever.

    Args:
        dataset: whose items are recommended.
        config: settled.
    """
    k = list_length(dataset, config.length, config.seen)
    if k == LIST_LENGTH:
        return None
    if config.seen == "keep":
        return f"lists will hold all {k} items"
    if not k:
        return "one history holds every item: seen=exclude leaves it none, a package will need --seen keep"
    return f"lists will hold {k} of {dataset.num_items} items: seen=exclude leaves some histories no more"
