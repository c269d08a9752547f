"""Tables in docs/ that restate the code are checked against it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canet_mobile.train.config import TrainConfig, presets

TRAINING = (Path(__file__).parent.parent / "docs" / "training.md").read_text("utf-8")


@pytest.mark.parametrize(("key", "default"), TrainConfig().to_json().items())
def test_every_configuration_key_is_documented_with_its_default(key: str, default: object) -> None:
    assert f"| `{key}` | `{json.dumps(default)}` | " in TRAINING


@pytest.mark.parametrize(("name", "changes"), presets().items())
def test_every_preset_is_documented_with_its_changes(name: str, changes: dict) -> None:
    cells = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in changes.items()) or "nothing"
    assert f"| `{name}` | {cells} | " in TRAINING
