"""A supernet with weights that matter and an untrained router, and users whose labels a router can learn."""

from __future__ import annotations

import torch
from evaluation_toys import random_histories, toy_canet, toy_dataset
from training_toys import small

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import training_windows
from canet_mobile.model.canet import Canet
from canet_mobile.routing.advice import divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.distil import fit_router
from canet_mobile.routing.ladder import Ladder
from canet_mobile.run.checkpoint import build_model
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.reporter import Reporter

ITEMS = 40


def routed_config(**changes) -> TrainConfig:
    sizes = dict(embedding=(8, 12), hidden=(8, 16), depth=(1, 2), length=6, seen="keep", budget=1.0)
    return small(**{**sizes, **changes})


def many_users(users: int = 1000) -> Dataset:
    return toy_dataset(random_histories(users, ITEMS), ITEMS)


def fit(
    config: TrainConfig, dataset: Dataset, *, last_item_only: bool = False, reporter: Reporter | None = None
) -> tuple[Canet, dict, Ladder]:
    """A fitted router; labels follow from a history's last item alone where ``last_item_only``."""
    torch.set_num_threads(1)
    blank = build_model(config, ITEMS).router
    model = Canet(toy_canet(ITEMS).supernet, blank)
    with torch.no_grad():
        for block in model.supernet.blocks if last_item_only else ():
            block.residual1.zero_()
            block.residual2.zero_()
    choosing, others = divide_users(dataset)
    windows = training_windows(dataset, 6)
    costs = spending_of(config, ITEMS)
    return fit_router(model, config, choosing, others, windows, costs, reporter)
