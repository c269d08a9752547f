"""A new router for a trained supernet: another budget, other costs, another label, without training again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out, training_windows
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import staged_directory
from canet_mobile.model.canet import Canet
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.fit import settle_routing
from canet_mobile.run.checkpoint import build_model
from canet_mobile.run.config import PAPER_COSTS, TrainConfig, apply
from canet_mobile.run.directory import METRICS, Run, find_run, load_canet, new_run, point_latest
from canet_mobile.run.process import launch
from canet_mobile.run.reporter import Reporter, Silent
from canet_mobile.run.state import LoopState, Store

ROUTER_KEYS = ("budget", "costs", "escalate", "router_label", "router_table", "validation_users", "seed")


def reroute(
    run: Run,
    dataset: Dataset,
    directory: Path,
    changes: Mapping[str, Any],
    *,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Distil a new router for a finished run's supernet, into a run directory of its own.

    The directory is there when all of it is: whatever goes wrong, nothing is left behind, and an older run
    that was to be replaced still stands.

    Args:
        run: a finished CANet run, of any recipe. Its supernet stays as it is, bit for bit.
        dataset: its data set.
        directory: the run directory to make.
        changes: keys of :data:`ROUTER_KEYS` and their new values.
        force: replace an older run of that name.
        reporter: listens to progress.

    Raises:
        UsageError: a key is none of the router's, or its value is out of range.
        CanetError: the run has no router or is unfinished, the table of costs is not one, or the directory
            exists.
    """
    config = _changed(run, changes)
    if directory.resolve() == run.directory.resolve():
        raise CanetError("is the run itself", where=directory, fix="name another folder with --out")
    spending_of(config, dataset.num_items)
    with staged_directory(directory, force=force, kind="run") as stage:
        made = new_run(stage, config, dataset, force=False, name=directory.name)
        model, routing = _distilled(run, config, dataset, reporter or Silent())
        routing["supernet_of"] = {"run": run.name, "checkpoint_sha256": run.checkpoint_sha256}
        made.manifest["routing"] = routing
        if "polish" in run.manifest:  # the supernet is that one
            made.manifest["polish"] = run.manifest["polish"]
        state = LoopState(**run.manifest["progress"])
        store = Store(made, model, config)
        store.weights("model", state.step)
        if (run.directory / METRICS).is_file():
            shutil.copyfile(run.directory / METRICS, stage / METRICS)
        store.commit(state, "finished")
    point_latest(directory)
    return find_run(directory)


def _changed(run: Run, changes: Mapping[str, Any]) -> TrainConfig:
    """The run's configuration with the router's keys changed."""
    if run.config.model != "canet":
        raise CanetError(
            f"is a {run.config.model} run, which has no router", where=run.directory, fix="name a canet run"
        )
    known = run.config.to_json()
    for key in changes:
        if key in known and key not in ROUTER_KEYS:
            raise UsageError(
                f"{key} belongs to the supernet, which is trained already",
                where="--set",
                fix=f"one of {', '.join(ROUTER_KEYS)}; or canet-mobile train --set {key}={changes[key]}",
            )
    config = apply(run.config, changes, where="--set")
    if "costs" in changes and config.costs != PAPER_COSTS:  # found again from any working directory
        config = apply(config, {"costs": str(Path(config.costs).resolve())})
    return config


def _distilled(
    run: Run, config: TrainConfig, dataset: Dataset, reporter: Reporter
) -> tuple[Canet, dict[str, Any]]:
    """The run's supernet with a router fitted to it, and how its users are routed, for the manifest."""
    supernet = load_canet(run).supernet
    fabric = launch(config)
    torch.manual_seed(config.seed)
    blank = build_model(config, dataset.num_items).router
    assert blank is not None
    model, routing = settle_routing(
        Canet(supernet.to(fabric.device), blank.to(fabric.device)),
        config,
        dataset,
        training_windows(dataset, config.length, last=config.windows or None),
        held_out(dataset, "validation", limit=config.validation_users or None),
        reporter,
        distil=True,
    )
    assert isinstance(model, Canet) and routing is not None
    return model, routing
