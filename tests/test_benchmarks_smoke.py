"""Every benchmark script starts; the training benchmarks measure a tiny size and write their JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))


def run(script: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        encoding="utf-8",)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_says_how_to_use_it(script: str) -> None:
    assert "usage:" in run(script, "--help")


def test_a_tiny_step_comparison_adds_each_mode_to_its_file(tmp_path: Path) -> None:
    out = tmp_path / "train_step.json"
    for mode in ([], ["--loss"]):
        run("train_step.py", *mode, "--sizes", "tiny", "--rounds", "1", "--out", out)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert sorted(found) == ["loss-cpu-1", "steps-cpu-1"]
    candidates = found["steps-cpu-1"]["sizes"][0]["candidates"]
    assert all(numbers["ms"] > 0 and numbers["loss_share"] > 0 for numbers in candidates.values())


def test_a_tiny_memory_measurement_writes_its_file(tmp_path: Path) -> None:
    out = tmp_path / "step_memory.json"
    run("step_memory.py", "--recipes", "rows", "--items", "50", "--batch", "2", "--length", "8", "--out", out)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len(found["cases"]) == 1
    assert all(case["peak_mib"] > case["imports_mib"] > 0 for case in found["cases"])
