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

from canet_mobile.compare import code, runs
from canet_mobile.compare.comparison import compare, failed
from canet_mobile.compare.presets import base_config
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError
from canet_mobile.run.config import TrainConfig
from canet_mobile.train import trainer


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


def cache_job(data: Dataset, parent: Path, **changes: object) -> runs.Job:
    config = base_config("quick", TINY | changes)
    return runs.Job("some", config, data.directory, data.content_hash, None, parent)


def test_measured_costs_count_by_what_they_say_not_by_their_path(
    compared_data: Dataset, tmp_path: Path
) -> None:
    table = {"schema_version": 1, "kind": "costs_table", "unit": "ms", "router": 0.1}
    routes = {f"e{e}_h{h}_d{d}": float(e + h + d) for e in (8, 16) for h in (8, 16) for d in (1, 2)}
    for name in ("costs.json", "moved.json"):
        (tmp_path / name).write_text(
            json.dumps({**table, "routes": routes}, indent=len(name)), encoding="utf-8"
        )

    def key(name: str, **changes: object) -> str:
        return cache_job(compared_data, tmp_path, costs=str(tmp_path / name), **changes).key

    first, plain = key("costs.json"), key("costs.json", model="fpmc")
    assert first == key("moved.json") != cache_job(compared_data, tmp_path).key
    (tmp_path / "costs.json").write_text(
        json.dumps({**table, "routes": routes | {"e8_h8_d1": 3.0}}), encoding="utf-8"
    )
    assert key("costs.json") != first, "the phone was measured again"
    assert key("costs.json", model="fpmc") == plain == cache_job(compared_data, tmp_path, model="fpmc").key
    with pytest.raises(CanetError, match="no such table of costs"):
        key("absent.json")


def test_code_counts_by_what_it_does(compared_data: Dataset, tmp_path: Path) -> None:
    root = Path(runs.__file__).parent.parent
    copy = shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__", "*.gz"))

    def changed(name: str, old: str, new: str) -> bool:
        """Whether code counts as other code with one change."""
        source = (copy / name).read_text(encoding="utf-8")
        assert source.count(old) >= 1
        (copy / name).write_text(source.replace(old, new, 1), encoding="utf-8")
        code.code_hash.cache_clear()
        found = code.code_hash(copy) != code.code_hash(root)
        (copy / name).write_text(source, encoding="utf-8")
        return found

    assert code.code_hash(copy) == code.code_hash(root)
    assert changed(
        "routing/distil.py",
        "FIT_EPOCHS, FIT_BATCH, FIT_LR, FIT_WARMUP = 4,",
        "FIT_EPOCHS, FIT_BATCH, FIT_LR, FIT_WARMUP = 5,",
    )
    assert changed("model/layers.py", "MASK_PAD = -1e4", "MASK_PAD = -2e4")
    assert changed(
        "data/split.py",
        '_LEFT_OUT: dict[Split, int] = {"validation": 2',
        '_LEFT_OUT: dict[Split, int] = {"validation": 3',
    )
    assert not changed("routing/distil.py", "# bias of a route that is not on the ladder", "# another word")
    assert not changed("routing/distil.py", "Choose the ladder on validation", "Choose it elsewhere")
    assert not changed("compare/figures.py", "WIDTH = 760.0", "WIDTH = 761.0")


def test_no_module_that_a_job_runs_is_forgotten() -> None:
    """What a job's process has loaded, but for what reads logs and draws reports."""
    root = Path(runs.__file__).parent.parent
    told = "import sys, canet_mobile.train.trainer, canet_mobile.routing.reroute, canet_mobile.compare.judge;"
    told += "print(*(m for m in sys.modules if m.startswith('canet_mobile.')))"
    loaded = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout
    paths = {"/".join(name.split(".")[1:]) + ".py" for name in loaded.split()}
    modules = {name for name in paths if (root / name).is_file()}
    counted = set(code.counted(root))
    assert modules - counted == code.NO_FIGURES
    assert {name.split("/")[0] for name in counted} >= {
        "model",
        "routing",
        "run",
        "train",
        "evaluate",
        "data",
    }
