"""Small random models that several test modules share."""

from __future__ import annotations

import pytest
import torch

from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig


def lively(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Move biases, norms and residual scalars off their starting values, so that every term counts."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("residual1", "residual2")):
                parameter.fill_(0.5)
            elif parameter.dim() <= 1 and name != "classifier_bias":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def random_canet(
    *, items: int = 300, length: int = 12, space: RoutingSpace | None = None, table: str = "shared", seed: int = 0
) -> Canet:
    """An untrained CANet in eval mode whose every weight matters."""
    torch.manual_seed(seed)
    space = space or RoutingSpace()
    supernet = Supernet(SupernetConfig(items, length, space))
    router = Router(RouterConfig(items, length, len(space), table, width=min(32, space.embedding[0])))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    lively(supernet, generator)
    lively(router, generator)
    return Canet(supernet, router).eval()


def random_histories(n: int, items: int, length: int, seed: int = 0) -> torch.Tensor:
    """Left-padded histories [n, length] int64; the first has a single item, the second is full."""
    generator = torch.Generator().manual_seed(seed)
    seq = torch.randint(1, items + 1, (n, length), generator=generator)
    sizes = torch.randint(1, length + 1, (n,), generator=generator)
    sizes[0] = 1
    sizes[1 % n] = length
    return seq * (torch.arange(length) >= length - sizes[:, None])


@pytest.fixture
def canet() -> Canet:
    return random_canet()
