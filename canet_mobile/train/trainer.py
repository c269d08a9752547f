"""The training loop: deterministic, resumable at any step, one process or many."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.neighbours import find_neighbours
from canet_mobile.data.split import HeldOut, Windows, held_out, training_windows
from canet_mobile.errors import CanetError, quoted
from canet_mobile.files import REPLACES, verify_files
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import SearchesSizes, move
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.fit import settle_routing
from canet_mobile.routing.validate import validate_routed, warnings_of
from canet_mobile.run.automatic import settled
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import Run, find_run, finish_run, new_run, point_latest
from canet_mobile.run.least import list_note, refuse_small
from canet_mobile.run.process import Interrupted, agreed, launch, stop_signals
from canet_mobile.run.reporter import Reporter, Silent
from canet_mobile.run.state import LoopState, Store, Unread
from canet_mobile.ties import exceeds
from canet_mobile.train.objectives import Objective, asks_neighbours
from canet_mobile.train.polish import StopAsked, polish, polishes
from canet_mobile.train.schedule import epoch_batches, epoch_windows, learning_rate
from canet_mobile.train.start import search_sizes, untrained

SAVE_SECONDS = 60.0
READ_EVERY = 20  # steps


@dataclass(frozen=True)
class _Session:
    """One process's view of a run in training."""

    fabric: Fabric
    config: TrainConfig
    store: Store
    state: LoopState
    objective: Objective
    dataset: Dataset
    windows: Windows
    queries: HeldOut
    reporter: Reporter
    unread: Unread = field(default_factory=Unread)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.fabric.is_global_zero


def train(
    config: TrainConfig,
    dataset: Dataset,
    directory: Path,
    *,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train a model from scratch into a new run directory.

    Args:
        config: what to train.
        dataset: what to train on.
        directory: the run directory to make.
        force: replace an older run of the same name, when this one is finished; until then it is made in
            ``<directory>.new``, where an interrupted one is resumed too.
        reporter: listens to progress.

    Returns:
        The finished run. Of several processes only the first finishes it; the others return before.

    Raises:
        CanetError: the directory exists, the data set is too small, the disk is full.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    fabric = launch(config)
    refuse_small(dataset, config)
    config = settled(config, dataset)
    if config.model == "canet":
        spending_of(config, dataset.num_items)  # a bad table of costs is refused now, not after an epoch
    place = ""
    if fabric.is_global_zero:
        place = str(new_run(directory, config, dataset, force=force).directory)
        point_latest(Path(place))
    reporter = reporter or Silent()
    if fabric.is_global_zero and (note := list_note(dataset, config)):
        reporter.note(note)
    return _fit(fabric, find_run(Path(fabric.broadcast(place))), dataset, reporter)


def resume(run: Run, dataset: Dataset, *, reporter: Reporter | None = None) -> Run:
    """Go on with an interrupted run; the result equals that of an uninterrupted one.

    Raises:
        CanetError: a file of the run is missing, truncated or altered.
    """
    if run.manifest["status"] == "finished":
        if REPLACES in run.manifest:  # stopped between its last step and taking the old run's place
            return finish_run(run)
        raise CanetError(
            "is finished; there is nothing to resume", where=run.directory, fix="evaluate or export it"
        )
    verify_files(run.directory, list(run.manifest["checkpoints"].values()))
    return _fit(launch(run.config), run, dataset, reporter or Silent())


def _fit(fabric: Fabric, run: Run, dataset: Dataset, reporter: Reporter) -> Run:
    config = run.config
    torch.manual_seed(config.seed)
    store = Store(run, untrained(config, dataset), config)
    state, optimizer_state = LoopState(), None
    windows = training_windows(dataset, config.length, last=config.windows or None)
    with stop_signals() as flag:
        if "trainer" in run.manifest["checkpoints"]:
            store.load("last")
            state, optimizer_state = store.load_trainer(fabric.world_size)
        elif isinstance(store.model, SearchesSizes):
            store.model = search_sizes(fabric, store, state, config, dataset, windows, reporter, flag)
        move(store.model, fabric.device)
        neighbours = find_neighbours(dataset).to(fabric.device) if asks_neighbours(config) else None
        objective = Objective(store.model, config, neighbours)
        trained = [weight for weight in objective.parameters() if weight.requires_grad]
        optimizer: Any = torch.optim.Adam(trained, config.lr, config.betas, fused=True)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
            if objective.average is not None:
                store.load("average", objective.kept)
        step: Any = torch.compile(objective) if config.compile else objective
        step, optimizer = fabric.setup(step, optimizer)
        queries = held_out(dataset, "validation", limit=config.validation_users or None)
        session = _Session(fabric, config, store, state, objective, dataset, windows, queries, reporter)
        while state.epoch < config.epochs and state.stopped_by is None:
            _epoch(session, step, optimizer, flag)
            _end_of_epoch(session)
            _save(session, optimizer, "running")
        return _finish(session, flag)


def _epoch(session: _Session, step: Any, optimizer: Any, flag: dict[str, bool]) -> None:
    """Train what is left of the current epoch."""
    fabric, config, state = session.fabric, session.config, session.state
    windows = epoch_windows(session.dataset, config, state.epoch)
    batches = epoch_batches(
        windows, config, state.epoch, process=fabric.global_rank, processes=fabric.world_size
    )
    step.train()
    saved_at = time.monotonic()
    for batch in batches[state.step_in_epoch :]:
        started = time.monotonic()
        inputs, targets = windows.batch(batch)
        arrays = inputs, targets, windows.users[batch], np.flatnonzero(inputs)
        # Not to wait here either: what is copied lies in ordinary memory, from which it is read at once.
        seq, wanted, users, real = (
            torch.from_numpy(each).to(fabric.device, non_blocking=True) for each in arrays
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step, config.epochs * len(batches))
        seed = (config.seed * 1_000_003 + state.step) * fabric.world_size + fabric.global_rank
        parts = step(seq, wanted.long(), seed, users, real)
        fabric.backward(parts["loss"])
        fabric.clip_gradients(step, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        session.objective.follow(state.step + 1, len(batches))
        session.unread.add(parts, len(real))
        state.count()
        if len(session.unread) == READ_EVERY or state.step_in_epoch == len(batches):
            _read(session)
        state.spend(time.monotonic() - started)
        session.reporter.step(state.epoch, state.step_in_epoch, len(batches), state.means())
        if not _asks(session):
            continue
        late = bool(config.max_minutes) and state.seconds > 60 * config.max_minutes
        stop, late, save = agreed(fabric, (flag["stop"], late, time.monotonic() - saved_at > SAVE_SECONDS))
        if stop:
            _save(session, optimizer, "interrupted")
            raise Interrupted(
                f"stopped at epoch {state.epoch + 1}, step {state.step_in_epoch} of {len(batches)}; saved",
                where=session.store.run.directory,
                fix=f"canet-mobile train --resume {quoted(session.store.run.directory)}",
            )
        if late:
            state.stopped_by = "max_minutes"
            _read(session)
            return
        if save:
            _save(session, optimizer, "running")
            saved_at = time.monotonic()


def _asks(session: _Session) -> bool:
    """Whether the processes agree after this step on what is next: several GPUs would wait for it."""
    fabric = session.fabric
    several = fabric.world_size > 1 and fabric.device.type != "cpu"
    return not several or session.state.step_in_epoch % READ_EVERY == 0


def _read(session: _Session) -> None:
    """Read the losses of the newest steps.

    Raises:
        CanetError: one is not finite; the weights in memory are spoilt, not the saved ones.
    """
    newest = session.state.step - 1
    if (step := session.unread.read(session.state)) is not None:
        raise CanetError(
            f"the loss is not finite at step {step}"
            + (f" (seen after step {newest})" if step < newest else ""),
            where=session.store.run.directory,
            fix=f"lower the learning rate: --set lr={session.config.lr / 3:.1g}",
        )


def _save(session: _Session, optimizer: torch.optim.Optimizer, status: str) -> None:
    _read(session)
    if session.writes:
        session.store.weights("last", session.state.step)
        if session.objective.average is not None:
            session.store.weights("average", session.state.step, session.objective.kept)
        session.store.trainer(session.state, optimizer, session.fabric.world_size)
        session.store.commit(session.state, status)
    session.fabric.barrier()


def _end_of_epoch(session: _Session) -> None:
    """Validate, remember the best, decide whether to go on."""
    config, state, store = session.config, session.state, session.store
    found = validate_routed(session.objective.kept, config, session.queries, fitted=config.recipe == "paper")
    better = state.best_ndcg10 is None or exceeds(found.ndcg10, state.best_ndcg10)
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "train": state.means(),
        "seconds": round(state.epoch_seconds, 3),
        "targets_per_second": round(state.targets / max(state.epoch_seconds, 1e-9)),
        "validation": found.to_json(),
        "best": better,
        "warnings": warnings_of(found, config, state.means().get("easy")),
    }
    if better:
        state.best_ndcg10, state.best_epoch, state.bad_epochs = found.ndcg10, state.epoch, 0
        if session.writes:
            store.weights("best", state.step, session.objective.kept)
    else:
        state.bad_epochs += 1
    state.next_epoch()
    if state.stopped_by is None and state.bad_epochs >= config.patience:
        state.stopped_by = "patience"
    if state.stopped_by is None and state.epoch == config.epochs:
        state.stopped_by = "epochs"
    if session.writes:
        store.append_metrics(record)
        session.reporter.epoch(record)


def _finish(session: _Session, flag: dict[str, bool]) -> Run:
    """Take the best weights, polish them and fit the router where the recipe asks for it, write the model.

    That is the first process's alone, and may take longer than any barrier waits: the others are done.
    """
    config, store, state = session.config, session.store, session.state
    if not session.writes:
        return store.run
    standing = store.run.directory.with_name(store.run.manifest.get(REPLACES, store.run.directory.name))
    store.load("best")
    if polishes(config, state.stopped_by):
        _polish(session, flag)
    model, routing = settle_routing(
        store.model, config, session.dataset, session.windows, session.queries, session.reporter
    )
    store.run.manifest["routing"] = routing
    store.weights("model", state.step, model)
    store.forget_training()
    store.commit(state, "finished")
    finish_run(store.run)
    return find_run(standing)


def _polish(session: _Session, flag: dict[str, bool]) -> None:
    """Polish the store's model; a run that is stopped meanwhile begins its polishing again when resumed."""
    store = session.store
    assert isinstance(store.model, Canet)
    try:
        store.model, store.run.manifest["polish"] = polish(
            store.model, session.config, session.dataset, session.reporter, lambda: flag["stop"]
        )
    except StopAsked as asked:
        store.commit(session.state, "interrupted")
        raise Interrupted(
            f"stopped while polishing, {asked}; the epochs before are saved",
            where=store.run.directory,
            fix=f"canet-mobile train --resume {quoted(store.run.directory)}, which polishes again",
        ) from None
