"""Where the classifier's biases start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluation_toys import toy_dataset
from training_toys import small

from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model
from canet_mobile.model.supernet import PAD_CLASS_BIAS
from canet_mobile.run.config import BASELINES
from canet_mobile.run.directory import load_model
from canet_mobile.train.start import untrained
from canet_mobile.train.trainer import train

ITEMS = 12
# Item 1 four times in training, item 2 twice; 3 and 4 only where they are held out.
HISTORIES = [[1, 1, 2, 3, 4], [1, 2, 1, 4, 3]]
COUNTS = torch.tensor([4.0, 2.0, *[0.0] * (ITEMS - 2)])


def biases(model: Model) -> torch.Tensor:
    return (model.supernet if isinstance(model, Canet) else model).classifier_bias.detach()


@pytest.mark.parametrize("model", ["canet", "sasrec", *(name for name in BASELINES if name != "fpmc")])
def test_biases_start_at_the_log_of_training_counts_alone(model: str) -> None:
    one_size = dict(embedding=(8,), hidden=(8,), depth=(1,)) if model == "sasrec" else {}
    config = small(model=model, **one_size)
    dataset = toy_dataset(HISTORIES, ITEMS)
    zero, found = (
        biases(untrained(c, dataset)) for c in (config, small(**vars(config) | {"prior": "popularity"}))
    )
    assert (zero[1:] == 0).all() and zero[0] == found[0] == PAD_CLASS_BIAS
    torch.testing.assert_close(found[1:] - found[3], COUNTS.log1p())
    torch.testing.assert_close(found[1:].mean(), torch.tensor(0.0))


def test_fpmc_has_no_biases_to_start() -> None:
    dataset = toy_dataset(HISTORIES, ITEMS)
    config = dict(model="fpmc", tied="false")
    found = [biases(untrained(small(**config, prior=prior), dataset)) for prior in ("none", "popularity")]
    assert torch.equal(*found)


@pytest.mark.parametrize("model", ["canet", "autodim"])
def test_training_starts_there(model: str, tmp_path: Path) -> None:
    """Trained with next to no learning rate, a model is where it started; AutoDim after its search."""
    dataset = toy_dataset([[user % 3 + 1, 2, 1, 4, user % 5 + 5] for user in range(20)], ITEMS)
    config = small(model=model, prior="popularity", lr=1e-8, epochs=1)
    found = biases(load_model(train(config, dataset, tmp_path / "run")))
    torch.testing.assert_close(found, biases(untrained(config, dataset)), atol=1e-5, rtol=0)
    assert found[1:].std() > 0.5
