"""benchmarks/routing_over_seeds.py: what a router buys over all test users and seeds together."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from canet_mobile.data.dataset import Dataset


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported with its folder on the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module("routing_over_seeds")


@pytest.fixture
def work(
    module: ModuleType,
    compared: Path,
    compared_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Runs and records of two seeds, where compare_methods.py leaves them."""
    for folder in (compared / "runs").glob("canet.seed*"):
        seed = folder.name.split(".")[1]
        shutil.copytree(folder / "run", tmp_path / "runs" / f"small-canet-{seed}")
        shutil.copy(folder / "record.json", tmp_path / f"small.canet.{seed}.json")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "ROUTING", tmp_path / "routing")
    monkeypatch.setattr(module, "dataset", lambda *_: compared_data)
    return tmp_path


def run(module: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    monkeypatch.setattr("sys.argv", ["routing_over_seeds.py", "--work", str(work), "small", *options])
    module.main()
    suffix = f".budget{options[1]}" if options else ""
    return json.loads((work / "routing" / f"small{suffix}.json").read_text(encoding="utf-8"))


def test_seeds_together_say_what_their_evaluations_say(
    module: ModuleType, work: Path, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gains = run(module, work, monkeypatch), []
    assert [each["seed"] for each in found["seeds"]] == [0, 1] and found["users"] == 80
    for each in found["seeds"]:
        evaluation = json.loads((work / f"small.canet.seed{each['seed']}.json").read_text(encoding="utf-8"))[
            "evaluation"
        ]
        (folder,) = (compared / "runs").glob(f"canet.seed{each['seed']}.*")
        with np.load(folder / "users.npz") as users:
            gains.append(users[f"over_random_{found['protocol']}"].astype(np.float64))
        told = evaluation["routing"]["random"][found["protocol"]]["difference"]["ndcg@10"]
        assert each["random"] == pytest.approx(told, abs=1e-6)
        assert each["ndcg10"] == pytest.approx(evaluation["routed"][found["protocol"]]["ndcg@10"])
        assert each["largest"] == pytest.approx(evaluation["routes"][-1][found["protocol"]]["ndcg@10"])
        cost = evaluation["costs"]["paper_mflops"] / evaluation["costs"]["sasrec_full_paper_mflops"]
        assert each["share_of_full"] == pytest.approx(cost, rel=1e-3)
        assert {entry: round(80 * share) for entry, share in each["routes"].items()} == {
            row["entry"]: row["users"] for row in evaluation["routes"] if row["users"]
        }
    mean = np.mean(gains, axis=0)
    assert found["random"]["value"] == pytest.approx(mean.mean(), abs=1e-6)
    assert found["random"]["se_users"] == pytest.approx(mean.std(ddof=1) / 80**0.5, abs=1e-6)


def test_another_budget_has_routers_of_its_own_for_the_same_supernets(
    module: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(module, work, monkeypatch)
    after = run(module, work, monkeypatch, "--budget", "0.9")
    for old, new in zip(before["seeds"], after["seeds"], strict=True):
        assert new["largest"] == old["largest"]
        folder = work / "budgets" / f"small-canet-seed{old['seed']}-0.9"
        made = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert made["config"]["budget"] == 0.9 and made["routing"]["advice"] == new["advice"]
    manifests = {path: path.stat().st_mtime_ns for path in work.glob("budgets/small-*/manifest.json")}
    assert len(manifests) == 2 and run(module, work, monkeypatch, "--budget", "0.9") == after
    assert {path: path.stat().st_mtime_ns for path in manifests} == manifests, "fitted once"


def test_a_run_that_is_not_the_recorded_one_is_refused(
    module: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(work / "small.canet.seed0.json", work / "small.canet.seed1.json")
    with pytest.raises(SystemExit, match=r"small.canet.seed1.json: .* not its model"):
        run(module, work, monkeypatch)
    assert not (work / "routing").exists()


def test_without_a_finished_run_the_command_that_makes_one_is_named(
    module: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for manifest in (work / "runs").glob("*/manifest.json"):
        manifest.write_text(
            manifest.read_text(encoding="utf-8").replace('"finished"', '"training"'), encoding="utf-8"
        )
    with pytest.raises(SystemExit, match=r"no finished run in .* train it with compare_methods.py"):
        run(module, work, monkeypatch)
    assert capsys.readouterr().err.count("not finished, left out") == 2
