"""The training loop: deterministic, resumable at any step, one process or many."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import Windows, held_out, length_buckets, training_windows
from canet_mobile.errors import EXIT_INTERRUPTED, CanetError
from canet_mobile.files import atomic_file, describe_files, verify_files
from canet_mobile.model.canet import Canet
from canet_mobile.train.checkpoint import (
    build_model,
    identity,
    load_trainer_state,
    load_weights,
    save_trainer_state,
    save_weights,
)
from canet_mobile.train.config import TrainConfig
from canet_mobile.train.objectives import Objective
from canet_mobile.train.routing import fit_router
from canet_mobile.train.run import METRICS, Run, new_run, point_latest, save_run
from canet_mobile.train.validate import validate_routed, warnings_of

SAVE_SECONDS = 60.0
RARE_REPEATS = 0.01  # below this share of returning users, an app would not show an item twice


class Reporter(Protocol):
    """Who listens to a run; the command line draws progress bars, tests listen to nothing."""

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """After every step: means of the loss parts over the epoch so far."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After every epoch: the line that went into metrics.jsonl."""

    def note(self, text: str) -> None:
        """Something worth saying: a warning, a new stage."""


class Silent:
    """A reporter that says nothing."""

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """Nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Interrupted(CanetError):
    """Ctrl-C or SIGTERM; the state was saved and the run can be resumed."""

    exit_code = EXIT_INTERRUPTED


@dataclass
class LoopState:
    """Where the loop stands: everything besides tensors that a resumed run needs."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_ndcg10: float | None = None
    best_epoch: int | None = None
    bad_epochs: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    targets: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    stopped_by: str | None = None


def train(
    config: TrainConfig, dataset: Dataset, directory: Path, *, force: bool = False, reporter: Reporter | None = None
) -> Run:
    """Train a model from scratch into a new run directory.

    Args:
        config: what to train.
        dataset: what to train on.
        directory: the run directory to make.
        force: replace an older run of the same name.
        reporter: listens to progress.

    Raises:
        CanetError: the directory exists, the data set is too small, the disk is full.
        Interrupted: Ctrl-C; the run can be resumed.
    """
    fabric = _fabric(config)
    refuse_small(dataset, config)
    config = replace(config, seen=seen_protocol(config, dataset))
    if fabric.is_global_zero:
        run = new_run(directory, config, dataset, force=force)
        point_latest(directory)
    fabric.barrier()
    if not fabric.is_global_zero:
        from canet_mobile.train.run import find_run

        run = find_run(directory)
    return _fit(fabric, run, dataset, reporter or Silent(), resume=False)


def resume(run: Run, dataset: Dataset, *, reporter: Reporter | None = None) -> Run:
    """Go on with an interrupted run; the result equals that of an uninterrupted one.

    Raises:
        CanetError: a file of the run is missing, truncated or altered.
    """
    if run.manifest["status"] == "finished":
        raise CanetError("is finished; there is nothing to resume", where=run.directory, fix="evaluate or export it")
    entries = run.manifest["checkpoints"]
    verify_files(run.directory, list(entries.values()))
    return _fit(_fabric(run.config), run, dataset, reporter or Silent(), resume="trainer" in entries)


def refuse_small(dataset: Dataset, config: TrainConfig) -> None:
    """Refuse data sets on which training could not mean anything."""
    if dataset.num_histories < 2:
        raise CanetError(f"holds {dataset.num_histories} history; training needs at least 2", where=dataset.directory)
    if dataset.num_items <= config.guide_k:
        raise CanetError(
            f"holds {dataset.num_items} items, not more than guide_k = {config.guide_k}",
            where=dataset.directory,
            fix=f"--set guide_k={max(1, dataset.num_items // 10)}",
        )


def seen_protocol(config: TrainConfig, dataset: Dataset) -> str:
    """The protocol validation is judged by; ``auto`` looks at how often a validation target was seen before."""
    if config.seen != "auto":
        return config.seen
    queries = held_out(dataset, "validation")
    rows, items = queries.seen(np.arange(len(queries)))
    came_back = np.unique(rows[items == queries.targets[rows]])
    return "keep" if len(came_back) > RARE_REPEATS * len(queries) else "exclude"


def _fabric(config: TrainConfig) -> Fabric:
    """One process, or as many as torchrun started."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise CanetError("accelerator = cuda, but PyTorch sees no GPU here", fix="--set accelerator=auto")
    cuda = torch.cuda.is_available() and config.accelerator != "cpu"
    precision: Any = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda else "32-true"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    strategy = DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto"
    fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices=processes, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


@contextmanager
def _stop_signals() -> Iterator[dict[str, bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that the loop reads between steps; the second kills."""
    flag = {"stop": False}

    def ask(number: int, frame: Any) -> None:
        if flag["stop"]:
            raise KeyboardInterrupt
        flag["stop"] = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns the signals keeps them
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Store:
    """Writes checkpoints of one run; files are named by step, and the manifest says which ones count."""

    def __init__(self, run: Run, canet: Canet, config: TrainConfig) -> None:
        self.run, self.canet, self.header = run, canet, identity(config, run.dataset_hash)

    def weights(self, role: str, step: int, canet: Canet | None = None) -> None:
        name = "model.safetensors" if role == "model" else f"{role}-{step}.safetensors"
        save_weights(self.run.directory / name, canet or self.canet, self.header)
        self._name(role, name)

    def trainer(self, step: int, state: LoopState, optimizer: torch.optim.Optimizer) -> None:
        name = f"trainer-{step}.pt"
        save_trainer_state(
            self.run.directory / name, {"loop": asdict(state), "optimizer": optimizer.state_dict()}
        )
        self._name("trainer", name)

    def load(self, role: str) -> None:
        entry = self.run.manifest["checkpoints"][role]
        load_weights(self.run.directory / entry["name"], self.canet, self.header)

    def commit(self, state: LoopState, status: str) -> None:
        self.run.manifest["status"] = status
        self.run.manifest["progress"] = {
            name: getattr(state, name)
            for name in ("epoch", "step", "best_epoch", "best_ndcg10", "seconds", "stopped_by")
        }
        save_run(self.run)

    def _name(self, role: str, name: str) -> None:
        self.run.manifest["checkpoints"][role] = describe_files(self.run.directory, [name])[0]


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``final_lr`` × ``lr`` at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))
    return config.lr * warm * (config.final_lr + (1 - config.final_lr) * cosine)


def _epoch_batches(windows: Windows, config: TrainConfig, epoch: int, fabric: Fabric) -> list[Any]:
    """This process's batches of one epoch; every process gets the same number."""
    rng = np.random.default_rng((config.seed, epoch))
    batches = list(length_buckets(windows.sizes, config.batch, rng))
    usable = max(1, len(batches) // fabric.world_size) * fabric.world_size
    return batches[fabric.global_rank : usable : fabric.world_size] or batches[:1]


def _fit(fabric: Fabric, run: Run, dataset: Dataset, reporter: Reporter, *, resume: bool) -> Run:
    config = run.config
    windows = training_windows(dataset, config.length, last=config.windows or None)
    queries = held_out(dataset, "validation", limit=config.validation_users or None)
    torch.manual_seed(config.seed)
    canet = build_model(config, dataset.num_items)
    store, state = _Store(run, canet, config), LoopState()
    if resume:
        store.load("last")
        saved = load_trainer_state(run.directory / run.manifest["checkpoints"]["trainer"]["name"])
        state = LoopState(**saved["loop"])
    objective = Objective(canet, config)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    canet.supernet.to(fabric.device)
    if canet.router is not None:
        canet.router.to(fabric.device)
    optimizer = torch.optim.Adam(parameters, config.lr, fused=True)
    if resume:
        optimizer.load_state_dict(saved["optimizer"])
    compiled: Any = torch.compile(objective) if config.compile else objective
    step_module, optimizer = fabric.setup(compiled, optimizer)
    total = config.epochs * len(_epoch_batches(windows, config, 0, fabric))

    with _stop_signals() as flag:
        while state.epoch < config.epochs and state.stopped_by is None:
            batches = _epoch_batches(windows, config, state.epoch, fabric)
            canet.supernet.train()
            if canet.router is not None:
                canet.router.train()
            saved_at = time.monotonic()
            for number in range(state.step_in_epoch, len(batches)):
                started = time.monotonic()
                seq, targets = (
                    torch.from_numpy(part).to(fabric.device) for part in windows.batch(batches[number])
                )
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, state.step, total)
                seed = (config.seed * 1_000_003 + state.step) * fabric.world_size + fabric.global_rank
                parts = step_module(seq, targets.long(), seed)
                fabric.backward(parts["loss"])
                fabric.clip_gradients(step_module, optimizer, max_norm=config.clip, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if not math.isfinite(_accumulate(state, parts, int((seq > 0).sum()))):
                    raise CanetError(
                        f"the loss is not finite at step {state.step}",
                        where=run.directory,
                        fix=f"lower the learning rate: --set lr={config.lr / 3:.1g}",
                    )
                state.step += 1
                state.step_in_epoch = number + 1
                spent = time.monotonic() - started
                state.seconds += spent
                state.epoch_seconds += spent
                reporter.step(state.epoch, number + 1, len(batches), _means(state))
                late = bool(config.max_minutes) and state.seconds > 60 * config.max_minutes
                if fabric.broadcast(flag["stop"]) if fabric.world_size > 1 else flag["stop"]:
                    _save(fabric, store, state, optimizer, "interrupted")
                    raise Interrupted(
                        f"stopped at epoch {state.epoch + 1}, step {number + 1} of {len(batches)}; saved",
                        where=run.directory,
                        fix=f"canet-mobile train --resume {run.directory}",
                    )
                if fabric.broadcast(late) if fabric.world_size > 1 else late:
                    state.stopped_by = "max_minutes"
                    break
                if time.monotonic() - saved_at > SAVE_SECONDS:
                    _save(fabric, store, state, optimizer, "running")
                    saved_at = time.monotonic()
            rate = learning_rate(config, state.step - 1, total)
            _end_of_epoch(fabric, store, state, config, queries, reporter, rate)
            _save(fabric, store, state, optimizer, "running")
        return _finish(fabric, store, state, config, windows, queries, reporter)


def _accumulate(state: LoopState, parts: dict[str, torch.Tensor], targets: int) -> float:
    values = {name: float(value.detach()) for name, value in parts.items()}
    for name, value in values.items():
        state.sums[name] = state.sums.get(name, 0.0) + value * targets
    state.targets += targets
    return values["loss"]


def _means(state: LoopState) -> dict[str, float]:
    return {name: value / max(1, state.targets) for name, value in state.sums.items()}


def _save(
    fabric: Fabric, store: _Store, state: LoopState, optimizer: torch.optim.Optimizer, status: str
) -> None:
    if fabric.is_global_zero:
        store.weights("last", state.step)
        store.trainer(state.step, state, optimizer)
        store.commit(state, status)
    fabric.barrier()


def _end_of_epoch(
    fabric: Fabric,
    store: _Store,
    state: LoopState,
    config: TrainConfig,
    queries: Any,
    reporter: Reporter,
    rate: float,
) -> None:
    """Validate, remember the best, decide whether to go on."""
    found = validate_routed(store.canet, config, queries, fitted=config.recipe == "paper")
    means = _means(state)
    warnings = warnings_of(found, config, means.get("easy"))
    better = state.best_ndcg10 is None or found.ndcg10 > state.best_ndcg10
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "train": means,
        "lr": rate,
        "seconds": round(state.epoch_seconds, 3),
        "targets_per_second": round(state.targets / max(state.epoch_seconds, 1e-9)),
        "validation": found.to_json(),
        "best": better,
        "warnings": warnings,
    }
    if better:
        state.best_ndcg10, state.best_epoch, state.bad_epochs = found.ndcg10, state.epoch, 0
        if fabric.is_global_zero:
            store.weights("best", state.step)
    else:
        state.bad_epochs += 1
    state.epoch += 1
    state.step_in_epoch, state.targets, state.epoch_seconds, state.sums = 0, 0, 0.0, {}
    if state.stopped_by is None and state.bad_epochs >= config.patience:
        state.stopped_by = "patience"
    if state.stopped_by is None and state.epoch == config.epochs:
        state.stopped_by = "epochs"
    if fabric.is_global_zero:
        _append_metrics(store.run.directory / METRICS, record)
    reporter.epoch(record)


def _append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line; lines of epochs that a resumed run repeats are dropped first."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["epoch"] < record["epoch"]]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join([*kept, json.dumps(record)]) + "\n")


def _finish(
    fabric: Fabric,
    store: _Store,
    state: LoopState,
    config: TrainConfig,
    windows: Windows,
    queries: Any,
    reporter: Reporter,
) -> Run:
    """Take the best weights, fit the router where the recipe leaves that to the end, write the model."""
    fabric.barrier()
    if fabric.is_global_zero:
        store.load("best")
    canet = store.canet
    routing: dict[str, Any] | None = None
    if fabric.is_global_zero:
        if canet.router is not None:
            routing = {"rule": "joint Gumbel-softmax (paper Eq. 5-9)"}
            if config.recipe != "paper":
                reporter.note("fitting the router to the smallest route's entropy")
                canet, routing = fit_router(canet, config, windows, queries)
            final = validate_routed(canet, config, queries, fitted=True)
            routing["validation"] = final.to_json()
            for warning in warnings_of(final, config, None):
                reporter.note(f"warning: {warning}")
        store.run.manifest["routing"] = routing
        store.weights("model", state.step, canet)
        for role in ("best", "last", "trainer"):
            store.run.manifest["checkpoints"].pop(role, None)
        store.commit(state, "finished")
    fabric.barrier()
    return store.run
