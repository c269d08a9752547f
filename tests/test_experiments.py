"""What benchmarks/experiments.toml plans is what the records were made with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from canet_mobile.compare.methods import is_plain_sasrec, select
from canet_mobile.run.config import BEFORE, TrainConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RECORDS = sorted((BENCHMARKS / "results").glob("*.seed*.json"))
# The others are references that today's settings may have left behind.
CANETS = ("canet", "canet-selftaught")
MEASURED = [path for path in RECORDS if (name := path.name.split(".")[1]) in CANETS or is_plain_sasrec(name)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported with its folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compare_methods")


def test_a_method_takes_the_keys_of_its_data_set_then_of_sasrecs_then_its_own(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = {
        "shared": {"epochs": 5, "batch": 16},
        "sasrec": {"epochs": 6, "beta2": 0.9},
        "sasrec-64x2": {"epochs": 7},
    }
    monkeypatch.setattr(module, "EXPERIMENTS", {"small": planned})
    data = SimpleNamespace(name="small", num_items=30)
    found = {
        name: module.configured(data, name, 3, 1)
        for name in ("sasrec-64x2", "sasrec-full", "sasrec-64x2-taught", "canet")
    }
    assert {name: (config.epochs, config.beta2) for name, config in found.items()} == {
        "sasrec-64x2": (7, 0.9),
        "sasrec-full": (6, 0.9),
        "sasrec-64x2-taught": (5, 0.98),
        "canet": (5, 0.98),
    }
    assert {(config.batch, config.seed) for config in found.values()} == {(16, 3)}


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.name)
def test_records_of_canet_and_plain_sasrecs_have_the_planned_settings(module: ModuleType, path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    data, name, *_ = path.name.split(".")
    (method,) = select([name], TrainConfig(), items=1000)
    planned = {**module.planned(data, name), **method.pins}
    config = {**BEFORE, **record["config"]}
    assert {key: config[key] for key in planned} == planned
