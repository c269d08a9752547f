"""What stands before the training loop: the first weights, and a method's search for its sizes."""

from __future__ import annotations

import math
import time

import torch
from lightning_fabric import Fabric
from torch import nn

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import training_counts
from canet_mobile.data.split import Windows
from canet_mobile.errors import CanetError, quoted
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model, SearchesSizes, move
from canet_mobile.run.checkpoint import build_any
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.process import Interrupted, agreed
from canet_mobile.run.reporter import Reporter
from canet_mobile.run.state import LoopState, Store


def untrained(config: TrainConfig, dataset: Dataset) -> Model:
    """A model before its first step; the caller seeds PyTorch first.

    With ``prior = "popularity"`` it scores items by how often they were consumed in training, log(n + 1)
    around a mean of 0. A method whose classifier has no biases starts as ever.
    """
    model = build_any(config, dataset.num_items, dataset.num_histories)
    bias = (model.supernet if isinstance(model, Canet) else model).classifier_bias
    if config.prior == "popularity" and isinstance(bias, nn.Parameter):
        counts = torch.from_numpy(training_counts(dataset)[1:]).float().log1p()
        with torch.no_grad():
            bias[1:] = counts - counts.mean()
    return model


def search_sizes(
    fabric: Fabric,
    store: Store,
    state: LoopState,
    config: TrainConfig,
    dataset: Dataset,
    windows: Windows,
    reporter: Reporter,
    flag: dict[str, bool],
) -> Model:
    """A method's search, from its start; it is not saved half-way, but found again from the same seed.

    Returns:
        An untrained model with the sizes it found; they are in the run's manifest, too.

    Raises:
        Interrupted: Ctrl-C.
        CanetError: the loss is not finite.
    """
    searched = store.model
    assert isinstance(searched, SearchesSizes)
    started = time.monotonic()
    searched.prepare_search(training_counts(dataset))
    move(store.model, fabric.device)
    if fabric.is_global_zero:
        reporter.note("searching embedding sizes")
    for epoch, step, total, loss in searched.search(config, windows, fabric):
        reporter.step(epoch, step, total, {"search": loss})
        if not math.isfinite(loss):
            raise CanetError(
                "the loss of the search is not finite",
                where=store.run.directory,
                fix=f"lower the learning rate: --set lr={config.lr / 3:.1g}",
            )
        if agreed(fabric, flag["stop"]):
            if fabric.is_global_zero:
                store.commit(state, "interrupted")
            raise Interrupted(
                f"stopped in the search for embedding sizes, step {step} of {total}",
                where=store.run.directory,
                fix=f"canet-mobile train --resume {quoted(store.run.directory)}, which searches again",
            )
    store.run.manifest["search"] = found = searched.found()
    if fabric.is_global_zero:
        counts = ", ".join(f"{size}: {count:,}" for size, count in found["items"].items())
        reporter.note(f"items per embedding size: {counts}")
    state.seconds += time.monotonic() - started
    torch.manual_seed(config.seed)
    fresh = untrained(config, dataset)
    assert isinstance(fresh, SearchesSizes)
    fresh.take(searched)
    return fresh
