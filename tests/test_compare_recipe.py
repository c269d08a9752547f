"""Methods that differ from CANet in the router alone take its supernet instead of training one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_dataset

from canet_mobile.compare.comparison import Plan, compare
from canet_mobile.data.dataset import Dataset
from canet_mobile.run.directory import find_run, load_canet
from canet_mobile.train import trainer

TINY = {
    "embedding": [8, 16], "hidden": [8, 16], "depth": [1, 2], "length": 6, "epochs": 1,
    "threads": 1, "batch": 64, "validation_users": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "small", users=80)


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained from now on, as a line for each supernet."""
    trained: list[str] = []
    train = trainer.train

    def counted(config, *arguments, **options):
        trained.append(
            f"{config.recipe} {config.average} {config.router_label} {config.router_table} {config.residual} "
            f"{config.moving} {config.seed}"
        )
        return train(config, *arguments, **options)

    monkeypatch.setattr(trainer, "train", counted)
    return trained


def test_another_router_takes_the_supernet_of_the_same_seed(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    plan = Plan(("recipe", "canet"), 2, "quick", {**TINY, "windows": 0})
    document = compare(data, plan, tmp_path / "out", force=False, say=lambda text: None)
    assert not any(row["failures"] for row in document["methods"])
    assert [row["name"] for row in document["methods"]] == [
        "canet", "canet-entropy", "canet-own", "canet-polished", "canet-selftaught", "canet-unaveraged",
        "canet-fixed",
        "canet-closed", "canet-untied", "canet-rows",
    ]  # fmt: skip
    supernets = (
        "sandwich 0.5 auto shared 0.1 True",
        "sandwich 0.5 auto shared 0.1 True",  # the polished one goes on by itself
        "sandwich 0.0 auto shared 0.1 True",
        "sandwich 0.5 auto shared 0.1 False",
        "sandwich 0.5 auto shared 0.0 True",
        "rows 0.5 auto shared 0.1 True",
    )
    ours = [f"{supernet} {seed}" for supernet in supernets for seed in (0, 1)]
    assert sorted(trained) == sorted(ours), "one training per supernet and seed"
    for seed in (0, 1):
        mine, unsure, own = (
            load_canet(find_run(next((tmp_path / "out" / "runs").glob(f"{name}.seed{seed}.*")) / "run"))
            for name in ("canet", "canet-entropy", "canet-own")
        )
        for key, tensor in mine.supernet.state_dict().items():
            assert torch.equal(tensor, unsure.supernet.state_dict()[key])
            assert torch.equal(tensor, own.supernet.state_dict()[key])
        assert (mine.router.config.table, own.router.config.table) == ("shared", "own")


def test_windows_that_cannot_move_are_not_trained_twice(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = count_trainings(monkeypatch)
    plan = Plan(("canet", "canet-fixed"), 1, "quick", TINY)
    document = compare(data, plan, tmp_path / "out", force=False, say=lambda text: None)
    canet, fixed = document["methods"]
    assert trained == ["sandwich 0.5 auto shared 0.1 False 0"]
    assert canet["metrics"] == fixed["metrics"] is not None


def test_without_canet_another_router_trains_its_own_supernet(data: Dataset, tmp_path: Path) -> None:
    plan = Plan(("canet-entropy",), 1, "quick", TINY)
    document = compare(data, plan, tmp_path / "out", force=False, say=lambda text: None)
    (row,) = document["methods"]
    assert row["metrics"] is not None and not row["failures"]
