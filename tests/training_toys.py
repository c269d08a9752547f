"""Small configurations that train in a second, and whether two models are the same to the bit."""

from __future__ import annotations

import torch

from canet_mobile.model.canet import Canet
from canet_mobile.run.config import SASREC_RECIPES, TrainConfig

SMALL = dict(
    embedding=(8, 16), hidden=(8, 16), depth=(1, 2), length=8, batch=16, epochs=3,
    validation_users=0, warmup_steps=5, threads=1,
)  # fmt: skip


def small(**changes) -> TrainConfig:
    return TrainConfig(**{**SMALL, **changes})


SASREC = dict(model="sasrec", embedding=(16,), hidden=(16,), depth=(2,))


def of_recipe(recipe: str, **changes) -> TrainConfig:
    """A small CANet by a recipe of its own, a small SASRec by one of a SASRec's."""
    return small(**(SASREC if recipe in SASREC_RECIPES else {}), recipe=recipe, **changes)


def weights(canet: Canet) -> dict[str, torch.Tensor]:
    router = canet.router.state_dict() if canet.router else {}
    return {**canet.supernet.state_dict(), **{f"router.{k}": v for k, v in router.items()}}


def assert_same(first: Canet, second: Canet) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
