"""What a training step asks of the device: on a GPU every read waits for all the work before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_toys import of_recipe

from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError
from canet_mobile.run.reporter import Silent
from canet_mobile.run.state import LoopState, Unread
from canet_mobile.train import trainer
from canet_mobile.train.trainer import READ_EVERY, train

ATEN = torch.ops.aten
WAITING = (ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default)


class Reads(TorchDispatchMode):
    """Counts what a GPU would be waited for: ``float()``, ``int()``, ``bool()`` or ``item()`` of a tensor, a
    mask as an index, of which the host must know how much it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = [
            index
            for each in args[1:2] if isinstance(each, list | tuple)
            for index in each if isinstance(index, torch.Tensor) and index.dtype == torch.bool
        ]  # fmt: skip
        self.count += bool(masks) or func in WAITING
        return func(*args, **(kwargs or {}))


class Steps(Silent):
    def __init__(self) -> None:
        self.steps = 0

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        self.steps += 1


# Which route is random is drawn on the host: a number of its own, no wait.
@pytest.mark.parametrize(("recipe", "drawn"), [("averaged", 0), ("taught", 0), ("sandwich", 1), ("paper", 0)])
def test_a_step_reads_no_figure_from_the_device(
    recipe: str, drawn: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, reads, stacked = trainer._epoch, Reads(), []

    def counted(*arguments: object) -> None:
        with reads:
            epoch(*arguments)  # type: ignore[arg-type]

    read = Unread.read

    def counted_read(unread: Unread, state: LoopState) -> int | None:
        stacked.append(len(unread))
        return read(unread, state)

    monkeypatch.setattr(trainer, "_epoch", counted)
    monkeypatch.setattr(Unread, "read", counted_read)
    told = Steps()
    train(of_recipe(recipe, batch=2, epochs=2), dataset, tmp_path / "run", reporter=told)
    assert told.steps > 2 * READ_EVERY
    assert reads.count <= drawn * told.steps + 2
    assert max(stacked) == READ_EVERY and sum(stacked) == told.steps


def test_what_is_read_is_the_same_whenever_it_is() -> None:
    parts = [{"loss": torch.rand(()), "easy": torch.rand(())} for _ in range(50)]

    def summed(every: int) -> LoopState:
        state, unread = LoopState(), Unread()
        for number, each in enumerate(parts, start=1):
            unread.add(each, number)
            state.count()
            if number % every == 0:
                assert unread.read(state) is None
        assert unread.read(state) is None
        return state

    assert summed(1).sums == summed(7).sums == summed(20).sums
    assert summed(7).means()["loss"] == sum(float(p["loss"]) * n for n, p in enumerate(parts, 1)) / sum(
        range(51)
    )


def test_a_runaway_loss_is_named_by_its_step_and_never_saved(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = trainer.Objective.forward, []

    def broken(self, *batch):
        calls.append(1)
        parts = real(self, *batch)
        return {**parts, "loss": parts["loss"] * (float("nan") if len(calls) == 6 else 1.0)}

    monkeypatch.setattr(trainer.Objective, "forward", broken)
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 1e9)
    with pytest.raises(CanetError, match=r"not finite at step 5 \(seen after step 19\)[\s\S]*lr="):
        train(of_recipe("sandwich", batch=2), dataset, tmp_path / "run")
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1.0)  # a save every step sees it at once
    calls.clear()
    with pytest.raises(CanetError, match=r"not finite at step 5\n"):
        train(of_recipe("sandwich", batch=2), dataset, tmp_path / "saved")
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["progress"]["step"] == 5, "the last saved state is the one before"
