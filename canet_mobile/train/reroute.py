"""A new router for a trained supernet: another budget, other costs, another label, without training again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out, training_windows
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.train.checkpoint import build_any
from canet_mobile.train.config import apply
from canet_mobile.train.process import launch
from canet_mobile.train.reporter import Reporter, Silent
from canet_mobile.train.run import METRICS, Run, find_run, load_canet, new_run, point_latest, save_run
from canet_mobile.train.stages import settle_routing
from canet_mobile.train.state import LoopState, Store

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

    Args:
        run: a finished CANet run, of any recipe. Its supernet stays as it is, bit for bit.
        dataset: its data set.
        directory: the run directory to make.
        changes: keys of :data:`ROUTER_KEYS` and their new values.
        force: replace an older run of that name.
        reporter: listens to progress.

    Raises:
        UsageError: a key is none of the router's.
        CanetError: the run has no router, is unfinished, or the directory exists.
    """
    source = load_canet(run)
    if source.router is None:
        raise CanetError(
            "is a plain SASRec, which has no router", where=run.directory, fix="name a canet run"
        )
    for key in changes:
        if key not in ROUTER_KEYS:
            raise CanetError(
                f"{key} belongs to the supernet, which is trained already",
                where="--set",
                fix=f"one of {', '.join(ROUTER_KEYS)}, or canet-mobile train",
            )
    config = apply(run.config, changes, where="--set")
    fabric = launch(config)
    if directory.resolve() == run.directory.resolve():
        raise CanetError("is the run itself", where=directory, fix="name another folder with --out")
    made = new_run(directory, config, dataset, force=force)
    torch.manual_seed(config.seed)
    model = build_any(config, dataset.num_items, dataset.num_histories)
    assert isinstance(model, Canet) and model.router is not None
    model.supernet.load_state_dict(source.supernet.state_dict())
    model.supernet.to(fabric.device)
    model.router.to(fabric.device)
    windows = training_windows(dataset, config.length, last=config.windows or None)
    queries = held_out(dataset, "validation", limit=config.validation_users or None)
    finished, routing = settle_routing(
        model, config, dataset, windows, queries, reporter or Silent(), distil=True
    )
    assert routing is not None
    routing["supernet_of"] = {"run": run.name, "checkpoint_sha256": run.checkpoint_sha256}
    progress = run.manifest["progress"]
    store = Store(made, finished, config)
    store.run.manifest["routing"] = routing
    store.weights("model", progress["step"])
    store.commit(
        LoopState(**{k: v for k, v in progress.items() if v is not None or k != "best_epoch"}), "finished"
    )
    if (run.directory / METRICS).is_file():
        shutil.copyfile(run.directory / METRICS, directory / METRICS)
    save_run(made)
    point_latest(directory)
    return find_run(directory)
