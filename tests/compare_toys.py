"""A comparison of two seeds on a data set of 80 users, made once, with a method that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from canet_mobile.compare.comparison import Plan, compare
from canet_mobile.data.dataset import Dataset
from canet_mobile.run.config import TrainConfig
from canet_mobile.train import trainer

TINY = {
    "embedding": [8, 16], "hidden": [8, 16], "depth": [1, 2], "length": 6, "epochs": 1,
    "threads": 1, "batch": 64, "validation_users": 30,
}  # fmt: skip
TINY_SET = [f"--set={key}={','.join(map(str, v)) if isinstance(v, list) else v}" for key, v in TINY.items()]


def plan(*models: str, seeds: int = 1, **changes: object) -> Plan:
    return Plan(models, seeds, "quick", TINY | changes)


def quiet(text: str) -> None:
    """Nobody listens."""


def compare_all(data: Dataset, out: Path) -> Path:
    """Every kind of method twice; GRU4Rec fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train", failing("gru4rec"))
        names = ("gru4rec", "fpmc", "sasrec-full", "sasrec-small", "canet-paper", "canet", "losses", "spaces")
        compare(data, plan(*names, "sasrec-8x1", seeds=2), out, force=False, say=quiet)
    return out


def failing(model: str):
    real = trainer.train

    def train(config: TrainConfig, *arguments: object, **options: object) -> object:
        if config.model == model:
            raise RuntimeError("the tensors do not fit")
        return real(config, *arguments, **options)

    return train


def rows(document: dict) -> dict[str, dict]:
    return {row["name"]: row for row in document["methods"]}
