"""The weights that a package's routes use, counted once: what the sizes of packages are measured against."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import random_canet
from torch import Tensor

from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import fold_residuals, parameters, quantize_model
from canet_mobile.model.space import RoutingSpace

ITEMS, LENGTH = 30, 8
SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))


@pytest.fixture
def weights_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module("package_sizes").weights_once


@pytest.fixture(scope="module")
def canet() -> Canet:
    return fold_residuals(random_canet(items=ITEMS, length=LENGTH, space=SPACE))


def stored(canet: Canet) -> dict[str, Tensor]:
    named = parameters(canet).items()
    return {name: tensor for name, tensor in named if not name.endswith(("residual1", "residual2"))}


def router_floats(canet: Canet) -> int:
    return sum(tensor.numel() for name, tensor in stored(canet).items() if name.startswith("router."))


def test_all_routes_use_every_number_but_the_folded_scalars(
    weights_once: Callable[..., int], canet: Canet
) -> None:
    every = sum(tensor.numel() for tensor in stored(canet).values())
    assert weights_once(canet, None, "fp32", SPACE.routes) == 4 * every


def test_one_route_uses_its_prefix(weights_once: Callable[..., int], canet: Canet) -> None:
    small = 8
    matrices = 12 * small * small
    vectors = (3 + 1 + 4 + 1 + 4) * small  # biases of q, k, v, out, ffn1, ffn2; two norms
    block = matrices + vectors
    floats = (ITEMS + 1) * (small + small + 1) + LENGTH * small + small * small + small + block
    assert weights_once(canet, None, "fp32", (SPACE.smallest,)) == 4 * (floats + router_floats(canet))


def test_two_routes_count_what_they_share_once(weights_once: Callable[..., int], canet: Canet) -> None:
    """A wide embedding with a narrow state, and the other way about: of the projection an L."""
    wide, narrow = SPACE.named("e16_h8_d1"), SPACE.named("e8_h16_d1")
    chosen = ((wide,), (narrow,), (wide, narrow))
    one, other, both = (weights_once(canet, None, "fp32", routes) for routes in chosen)
    small = weights_once(canet, None, "fp32", (SPACE.smallest,))
    assert both - one == other - small


def test_integers_take_their_bits_and_a_scale_a_row(weights_once: Callable[..., int], canet: Canet) -> None:
    integers = quantize_model(canet, 8)
    matrices = sum(found.values.numel() for found in integers.tensors.values())
    scales = sum(found.scale.numel() for found in integers.tensors.values())
    fp32 = weights_once(canet, None, "fp32", SPACE.routes)
    assert weights_once(canet, integers, "int8", SPACE.routes) == fp32 - 3 * matrices + 2 * scales
