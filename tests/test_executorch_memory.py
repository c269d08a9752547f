"""The memory benchmark says what it lacks instead of failing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "executorch_memory" / "measure.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("executorch_memory_measure", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("patched", "text"),
    [("shutil.which", "no g\\+\\+ here"), ("importlib.util.find_spec", "no executorch here")],
)
def test_what_is_missing_is_said(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patched: str, text: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(patched, lambda name: None)
    with pytest.raises(SystemExit, match=text):
        script.build(tmp_path)
