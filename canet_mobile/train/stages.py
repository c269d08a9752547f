"""What stands around the training loop: the first weights, AutoDim's search, and CANet's router after it."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import training_counts
from canet_mobile.data.split import HeldOut, Windows
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.model.compared.autodim import AutoDim, describe_choice, popularity_groups, search
from canet_mobile.model.recommender import Model
from canet_mobile.routing.advice import advise, divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.distil import fit_router
from canet_mobile.routing.points import set_points
from canet_mobile.routing.validate import budget_warning, validate_routed, warnings_of
from canet_mobile.run.checkpoint import build_any
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.process import Interrupted, agreed
from canet_mobile.run.reporter import Reporter
from canet_mobile.run.state import LoopState, Store


def untrained(config: TrainConfig, dataset: Dataset) -> Model:
    """A model before its first step; the caller seeds PyTorch first.

    With ``prior = "popularity"`` it scores items by how often they were consumed in training, log(n + 1)
    around a mean of 0. FPMC, whose classifier has no biases, starts as ever.
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
    """AutoDim's search, from its start; it is not saved half-way, but found again from the same seed.

    Returns:
        An untrained model with the sizes it found; they are in the run's manifest, too.

    Raises:
        Interrupted: Ctrl-C.
        CanetError: the loss is not finite.
    """
    searched = store.model
    assert isinstance(searched, AutoDim)
    started = time.monotonic()
    searched.group.copy_(popularity_groups(training_counts(dataset)))
    searched.to(fabric.device)
    if fabric.is_global_zero:
        reporter.note("searching embedding sizes")
    for epoch, step, total, loss in search(searched, config, windows, fabric):
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
                fix=f"canet-mobile train --resume {store.run.directory}, which searches again",
            )
    store.run.manifest["search"] = found = describe_choice(searched)
    if fabric.is_global_zero:
        counts = ", ".join(f"{size}: {count:,}" for size, count in found["items"].items())
        reporter.note(f"items per embedding size: {counts}")
    state.seconds += time.monotonic() - started
    torch.manual_seed(config.seed)
    fresh = untrained(config, dataset)
    assert isinstance(fresh, AutoDim)
    fresh.group.copy_(searched.group)
    fresh.choice.copy_(searched.choice)
    return fresh


def settle_routing(
    model: Model,
    config: TrainConfig,
    dataset: Dataset,
    windows: Windows,
    queries: HeldOut,
    reporter: Reporter,
    *,
    distil: bool | None = None,
) -> tuple[Model, dict[str, Any] | None]:
    """Fit the router where the recipe leaves that to the end, and validate what will be shipped.

    Args:
        model: with the best epoch's weights.
        config: of the run.
        dataset: what it was trained on.
        windows: training windows, for the router's labels.
        queries: validation queries.
        reporter: told of the stage and of warnings.
        distil: fit the router; None leaves that to the recipe (the paper's has trained its own).

    Returns:
        The finished model, and how its users are routed, for the manifest; None for one that does not route.
    """
    if not isinstance(model, Canet):
        if config.model != "skiprec":
            return model, None
        found = validate_routed(model, config, queries, fitted=True)
        return model, {
            "rule": "SkipRec's policy network, a decision per layer",
            "validation": found.to_json(),
        }
    if model.router is None:
        return model, None
    routing: dict[str, Any] = {"rule": "joint Gumbel-softmax (paper Eq. 5-9)"}
    spending = spending_of(config, model.supernet.config.items)
    choosing, others = divide_users(dataset)
    balanced: float | None = None
    distil = config.recipe != "paper" if distil is None else distil
    if distil:
        reporter.note("fitting the router to how unsure the smaller route is at every position")
        model, routing, ladder = fit_router(model, config, choosing, others, windows, spending, reporter)
        balanced = ladder.cost
    model, routing["operating_points"] = set_points(model, config, choosing, spending, balanced)
    if distil:
        routing["advice"] = advise(model, config, others, routing.pop("best_fixed"))
    final = validate_routed(model, config, queries, fitted=True)
    routing["validation"] = final.to_json()
    for warning in budget_warning(routing, config) if distil else warnings_of(final, config, None):
        reporter.note(f"warning: {warning}")
    return model, routing
