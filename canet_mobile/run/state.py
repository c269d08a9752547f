"""Where a run stands, and the checkpoint files that make it resumable."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from canet_mobile.errors import CanetError
from canet_mobile.files import describe_files, write_text
from canet_mobile.model.recommender import Model
from canet_mobile.run.checkpoint import (
    identity,
    load_trainer_state,
    load_weights,
    save_trainer_state,
    save_weights,
)
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import METRICS, Run, save_run


@dataclass
class LoopState:
    """Everything besides tensors that a resumed run needs.

    ``sums`` holds each loss part's sum over ``targets`` so far in this epoch; times are in seconds of
    training steps, validation apart.
    """

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

    def count(self) -> None:
        """Add one step."""
        self.step += 1
        self.step_in_epoch += 1

    def spend(self, seconds: float) -> None:
        """Add time."""
        self.seconds += seconds
        self.epoch_seconds += seconds

    def learn(self, parts: dict[str, float], targets: int) -> None:
        """Add the loss parts of one step, means over its targets."""
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * targets
        self.targets += targets

    def means(self) -> dict[str, float]:
        """Mean of each loss part over this epoch's targets so far."""
        return {name: value / max(1, self.targets) for name, value in self.sums.items()}

    def next_epoch(self) -> None:
        """Start the next epoch's sums."""
        self.epoch += 1
        self.step_in_epoch, self.targets, self.epoch_seconds, self.sums = 0, 0, 0.0, {}


class Unread:
    """Loss parts of the newest steps, left where they were computed.

    To read a figure is to wait until a GPU has done all it was given, so many steps are read at once. Nothing
    is summed before: what is read is the same, whenever it is.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.steps: list[tuple[torch.Tensor, int]] = []

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, parts: dict[str, torch.Tensor], targets: int) -> None:
        """Keep one step's parts, each of no dimension, and its number of targets."""
        self.names = tuple(parts)
        self.steps.append((torch.stack([part.detach().float() for part in parts.values()]), targets))

    def read(self, state: LoopState) -> int | None:
        """Add all steps to a state's sums, oldest first, and forget them.

        Args:
            state: that has counted them already.

        Returns:
            The number of the first step whose loss is not finite; None as it should be.
        """
        if not self.steps:
            return None
        bad: list[int] = []
        rows = torch.stack([parts for parts, _ in self.steps]).tolist()
        for number, (row, (_, targets)) in enumerate(zip(rows, self.steps, strict=True)):
            parts = dict(zip(self.names, row, strict=True))
            state.learn(parts, targets)
            if not math.isfinite(parts["loss"]):
                bad.append(state.step - len(self.steps) + number)
        self.steps = []
        return bad[0] if bad else None


class Store:
    """Checkpoints of one run. Files are named by step; the manifest, written last, says which ones count."""

    def __init__(self, run: Run, model: Model, config: TrainConfig) -> None:
        self.run, self.model, self.header = run, model, identity(config, run.dataset_hash)

    def weights(self, role: str, step: int, model: Model | None = None) -> None:
        """Write weights as the run's ``best``, ``last``, ``average`` or finished ``model``; the model's own
        unless others are given."""
        name = "model.safetensors" if role == "model" else f"{role}-{step}.safetensors"
        save_weights(self.run.directory / name, model or self.model, self.header)
        self._point(role, name)

    def trainer(self, state: LoopState, optimizer: torch.optim.Optimizer, processes: int) -> None:
        """Write what a resumed run needs besides the weights."""
        name = f"trainer-{state.step}.pt"
        document = {"loop": asdict(state), "optimizer": optimizer.state_dict(), "processes": processes}
        save_trainer_state(self.run.directory / name, document)
        self._point("trainer", name)

    def load(self, role: str, model: Model | None = None) -> None:
        """Load weights, into the store's own model unless another is given."""
        load_weights(self._path(role), model or self.model, self.header)

    def load_trainer(self, processes: int) -> tuple[LoopState, dict[str, Any]]:
        """The loop state and the optimizer's state dict.

        Raises:
            CanetError: the run was begun with another number of processes, which share an epoch differently.
        """
        saved = load_trainer_state(self._path("trainer"))
        if saved["processes"] != processes:
            raise CanetError(
                f"was begun with {saved['processes']} processes, not {processes}",
                where=self.run.directory,
                fix=f"resume it under torchrun --nproc-per-node {saved['processes']}"
                if saved["processes"] > 1
                else "resume it without torchrun",
            )
        return LoopState(**saved["loop"]), saved["optimizer"]

    def forget_training(self) -> None:
        """Drop what only an unfinished run needs."""
        for role in ("best", "last", "average", "trainer"):
            self.run.manifest["checkpoints"].pop(role, None)

    def commit(self, state: LoopState, status: str) -> None:
        """Write the manifest: from here on the new files count."""
        names = ("epoch", "step", "best_epoch", "best_ndcg10", "seconds", "stopped_by")
        self.run.manifest["status"] = status
        self.run.manifest["progress"] = {name: getattr(state, name) for name in names}
        save_run(self.run)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add an epoch's line; lines of epochs that a resumed run repeats are dropped first."""
        path = self.run.directory / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if json.loads(line)["epoch"] < record["epoch"]]
        write_text(path, "\n".join([*kept, json.dumps(record)]) + "\n")

    def _path(self, role: str) -> Path:
        return self.run.directory / self.run.manifest["checkpoints"][role]["name"]

    def _point(self, role: str, name: str) -> None:
        self.run.manifest["checkpoints"][role] = describe_files(self.run.directory, [name])[0]
