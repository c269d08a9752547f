"""The same seed writes the same bytes, in every process; what differs is named here, and is time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_dataset, random_canet
from training_toys import SMALL

from canet_mobile.run.checkpoint import load_weights, save_trainer_state, save_weights

HEADER = {"format": "f", "model": "canet", "space": '{"hidden": [8, 16]}', "dataset": "é" * 4}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def in_a_process(hash_seed: int, cwd: Path, *arguments: object) -> None:
    """Call the command where sets and dictionaries of strings are hashed otherwise."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "canet_mobile", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    canet = random_canet(items=7)
    for number in range(20):  # safetensors alone orders four names in 24 ways
        save_weights(tmp_path / f"{number}.safetensors", canet, HEADER)
    assert len(set(files(tmp_path).values())) == 1
    data = (tmp_path / "0.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert list(json.loads(data[8 : 8 + size])["__metadata__"]) == sorted(HEADER)
    again = random_canet(items=7, seed=1)
    load_weights(tmp_path / "0.safetensors", again, HEADER)
    ours, theirs = canet.supernet.state_dict(), again.supernet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_equal_trainer_states_are_equal_files(tmp_path: Path) -> None:
    for number in range(3):
        save_trainer_state(tmp_path / str(number), {"optimizer": {0: torch.arange(3.0)}, "processes": 1})
    assert len(set(files(tmp_path).values())) == 1


@pytest.mark.parametrize("recipe", ["sandwich", "paper"])
def test_a_run_trained_twice_differs_in_its_times_alone(recipe: str, tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    settings = [f"--set={k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in SMALL.items()]
    settings += [f"--set=recipe={recipe}"]
    for seed, parent in ((1, "a"), (2, "b")):
        in_a_process(seed, tmp_path, "train", "--data", "small", *settings, "--out", f"{parent}/run")
    first, second = files(tmp_path / "a" / "run"), files(tmp_path / "b" / "run")
    assert (
        first.keys()
        == second.keys()
        == {"manifest.json", "config.toml", "metrics.jsonl", "model.safetensors"}
    )
    assert {name for name in first if first[name] != second[name]} <= {"manifest.json", "metrics.jsonl"}

    def timeless(found: dict[str, bytes]) -> list[dict]:
        manifest = json.loads(found["manifest.json"])
        assert manifest.pop("created_at") and manifest["progress"].pop("seconds") > 0
        lines = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
        for line in lines:
            assert line.pop("seconds") > 0 and line.pop("targets_per_second") > 0
        return [manifest, *lines]

    assert timeless(first) == timeless(second)
