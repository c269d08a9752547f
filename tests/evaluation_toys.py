"""Small models and data sets for the evaluation tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from canet_mobile.data.dataset import Dataset
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig

SPACE = RoutingSpace((8, 12), (8, 16), (1, 2))


def toy_dataset(histories: list[list[int]], items: int) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    flat = np.array([item for history in histories for item in history], np.int32)
    counts = {"items": items, "histories": len(histories), "users": len(histories), "interactions": len(flat)}
    manifest = {"name": "toy", "counts": counts, "content_hash": "0" * 64}
    return Dataset(Path("toy"), manifest, offsets, flat)


def random_histories(users: int, items: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(1, items + 1, generator.integers(3, longest + 1)).tolist() for _ in range(users)
    ]


def _perturbed(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "residual" in name:
                parameter.fill_(0.5)
            elif "classifier_bias" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.eval()


def toy_canet(items: int, length: int = 6, space: RoutingSpace = SPACE, *, router: bool = True) -> Canet:
    torch.manual_seed(0)
    config = SupernetConfig(items, length, space, in_projection=router)
    supernet = _perturbed(Supernet(config))
    if not router:
        return Canet(supernet, None)
    return Canet(supernet, _perturbed(Router(RouterConfig(items, length, len(space), table="own"))))
