"""Small random models that several test modules share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compare_toys import compare_all

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.telemetry import switch_off

switch_off()  # before a test module imports a toolkit to see whether it is here


def lively(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Move biases, norms and residual scalars off their starting values, so that every term counts."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("residual1", "residual2")):
                parameter.fill_(0.5)
            elif (parameter.dim() <= 1 or name.endswith("qkv_bias")) and name != "classifier_bias":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def toy_points(routes: int, generator: torch.Generator) -> torch.Tensor:
    """Offsets [operating points, routes] that lean to small routes, to none, and to large ones."""
    lean = torch.tensor([[-2.0], [0.0], [2.0]]) * torch.linspace(-1, 1, routes)
    return lean + 0.2 * torch.randn(lean.shape, generator=generator)


def random_canet(
    *,
    items: int = 300,
    length: int = 12,
    space: RoutingSpace | None = None,
    table: str = "shared",
    seed: int = 0,
) -> Canet:
    """An untrained CANet in eval mode whose every weight matters; its operating points route differently."""
    torch.manual_seed(seed)
    space = space or RoutingSpace()
    supernet = Supernet(SupernetConfig(items, length, space))
    router = Router(RouterConfig(items, length, len(space), table, width=min(32, space.embedding[0])))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    lively(supernet, generator)
    lively(router, generator)
    if table == "shared":
        router.table_scale.fill_(1.7)
    router.points.copy_(toy_points(len(space), generator))
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


def make_dataset(directory: Path, *, users: int = 60, items: int = 40, seed: int = 0) -> Dataset:
    """A small imported data set in which the next item follows from the last one, mostly."""
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(users):
        item = int(rng.integers(items))
        for time in range(int(rng.integers(6, 20))):
            lines.append(f"u{user},i{item},{time}")
            item = (item * 3 + 1) % items if rng.random() < 0.8 else int(rng.integers(items))
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.parent / f"{directory.name}.csv"
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return import_log(log, directory, ImportOptions(min_item_count=1, min_history=5))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "small")


@pytest.fixture(scope="session")
def compared_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "small", users=80)


@pytest.fixture(scope="session")
def compared(compared_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare_all(compared_data, tmp_path_factory.mktemp("compare") / "out")
