"""Tables in docs/ that restate the code are checked against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canet_mobile.model import costs
from canet_mobile.run.config import BASELINES, TrainConfig
from canet_mobile.run.presets import presets, variants

DOCS = Path(__file__).parent.parent / "docs"
TRAINING = (DOCS / "training.md").read_text("utf-8")
METHODS = (DOCS / "baselines.md").read_text("utf-8")


@pytest.mark.parametrize(("key", "default"), TrainConfig().to_json().items())
def test_every_configuration_key_is_documented_with_its_default(key: str, default: object) -> None:
    assert f"| `{key}` | `{json.dumps(default)}` | " in TRAINING


@pytest.mark.parametrize(("name", "changes"), presets().items())
def test_every_preset_is_documented_with_its_changes(name: str, changes: dict) -> None:
    cells = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in changes.items()) or "nothing"
    assert f"| `{name}` | {cells} | " in TRAINING


@pytest.mark.parametrize(("name", "pins"), variants().items())
def test_every_variant_is_documented_with_what_it_pins(name: str, pins: dict) -> None:
    cells = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in pins.items())
    assert f"| `{name}` | {cells} | " in METHODS


@pytest.mark.parametrize("name", BASELINES)
def test_every_compared_method_is_documented_with_its_module(name: str) -> None:
    assert f"| `{name}` | " in METHODS and f"`model/compared/{name}.py`" in METHODS


def test_the_costs_of_the_compared_methods_are_what_the_code_counts() -> None:
    sizes = [(199013, 20), (198802, 50), (112705, 20)]
    for title, mflops in {
        "FPMC": lambda items, length: costs.table_mflops(costs.fpmc_paper_macs(items)),
        "GRU4Rec": lambda *size: costs.table_mflops(costs.gru4rec_paper_macs(*size)),
        "NextItNet": lambda *size: costs.table_mflops(costs.nextitnet_paper_macs(*size)),
        "SASRec-full": costs.sasrec_paper_mflops,
    }.items():
        row = " | ".join(f"{mflops(*size):.3f}" for size in sizes)
        assert f"| {title} | {row} |" in METHODS
