"""What a comparison does not compute again, and what survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare_toys import TINY, TINY_SET, plan, quiet, rows
from conftest import make_dataset

from canet_mobile.compare import runs
from canet_mobile.compare.comparison import compare, failed
from canet_mobile.compare.presets import base_config
from canet_mobile.data.dataset import Dataset
from canet_mobile.train import trainer
from canet_mobile.train.config import TrainConfig


@pytest.fixture(scope="module")
def document(compared: Path) -> dict:
    return json.loads((compared / "compare.json").read_text(encoding="utf-8"))


def test_nothing_that_is_cached_is_computed_again(
    compared_data: Dataset, compared: Path, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(compared, tmp_path / "copy")

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(trainer, "train", never)
    monkeypatch.setattr(runs, "judge", never)
    names = ("fpmc", "sasrec-full", "canet")
    again = compare(compared_data, plan(*names, seeds=2), copy, force=False, say=quiet)
    for name in names:
        assert rows(again)[name] == rows(document)[name]
    changed = compare(compared_data, plan(*names, seeds=2, lr=0.01), copy, force=False, say=quiet)
    assert failed(changed), "another configuration is another run"


def test_other_threads_are_the_same_run_and_other_users_only_another_judgement(
    compared_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(limit: int | None = None, **changes: object) -> runs.Job:
        config = base_config("quick", TINY | {"model": "fpmc"} | changes)
        return runs.Job("fpmc", config, compared_data.directory, compared_data.content_hash, limit, tmp_path)

    runs.run_job(job(), quiet)
    assert job(threads=2).cached() == job().cached() is not None
    assert job(lr=0.5).cached() is None and job(limit=20).cached() is None
    monkeypatch.setattr(trainer, "train", None)
    runs.run_job(job(limit=20), quiet)
    assert job(limit=20).cached()["evaluation"]["users"] == 20
    users = job().directory / runs.USERS
    users.write_bytes(users.read_bytes()[:100])
    assert job(limit=20).cached() is None, "a file that was cut short is made again"
    users.write_bytes(b"")
    assert job(limit=20).cached() is None


def test_a_judgement_without_gains_is_made_again(
    compared_data: Dataset, compared: Path, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders from before gains were kept: judged again, not trained again."""
    copy, kept = shutil.copytree(compared, tmp_path / "copy"), {}
    for path in (copy / "runs").glob("*/users.npz"):
        with np.load(path) as arrays:
            kept[path] = {name: arrays[name] for name in arrays.files}
        np.savez_compressed(path, **{k: v for k, v in kept[path].items() if not k.startswith("over_")})
    monkeypatch.setattr(trainer, "train", None)
    again = compare(compared_data, plan("fpmc", "canet", seeds=2), copy, force=False, say=quiet)
    assert rows(again)["canet"] == rows(document)["canet"]
    for path, arrays in kept.items():
        if path.parent.name.startswith("canet.seed"):
            with np.load(path) as made:
                assert all(np.array_equal(made[name], arrays[name]) for name in arrays)


def test_an_interrupted_comparison_goes_on(
    compared_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    train = trainer.train

    def counting(config: TrainConfig, *arguments: object, **options: object) -> object:
        trained.append(config.model)
        if config.model == "sasrec" and len(trained) == 2:
            raise trainer.Interrupted("stopped")
        return train(config, *arguments, **options)

    monkeypatch.setattr(trainer, "train", counting)
    out = tmp_path / "out"
    with pytest.raises(trainer.Interrupted, match="finished so far is kept"):
        compare(compared_data, plan("fpmc", "sasrec-8x1"), out, force=False, say=quiet)
    assert not (out / "compare.json").exists()
    document = compare(compared_data, plan("fpmc", "sasrec-8x1"), out, force=False, say=quiet)
    assert trained == ["fpmc", "sasrec", "sasrec"] and not failed(document)


def test_a_killed_comparison_with_workers_goes_on_to_the_result_of_a_whole_one(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "small", users=200)
    more = {"epochs": 12, "patience": 30}
    command = [sys.executable, "-m", "canet_mobile", "compare", "--data", "small", "--out", "killed"]
    command += ["--jobs=2", "--seeds=1", "--models=fpmc,sasrec-8x2", "--preset=quick", *TINY_SET]
    command += [f"--set={key}={value}" for key, value in more.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/runs/*/run/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "compare.json").exists()
    assert process.stderr is not None
    process.stderr.read()  # the workers hold its other end: it closes when they have gone
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    killed = json.loads((tmp_path / "killed" / "compare.json").read_text(encoding="utf-8"))
    whole = compare(data, plan("fpmc", "sasrec-8x2", **more), tmp_path / "whole", force=False, say=quiet)
    for document in (killed, whole):
        assert not failed(document)
        assert all(run.pop("training_seconds") >= 0 for row in document["methods"] for run in row["runs"])
    assert killed == json.loads(json.dumps(whole))
