"""`canet-mobile route`: a new router for a trained supernet, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_spending import table
from training_toys import assert_same, small

from canet_mobile.cli.main import run as command
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.routing import reroute as reroute_module
from canet_mobile.routing.reroute import ROUTER_KEYS, reroute
from canet_mobile.run.directory import Run, find_run, load_model
from canet_mobile.train.trainer import train


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Run:
    return train(small(epochs=2), dataset, tmp_path / "runs" / "base")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("recipe", ["sandwich", "paper"])
def test_the_supernet_is_the_same_to_the_bit_and_the_router_is_new(
    recipe: str, dataset: Dataset, tmp_path: Path
) -> None:
    base = train(small(epochs=2, recipe=recipe), dataset, tmp_path / "base")
    sha = base.checkpoint_sha256
    made = reroute(base, dataset, tmp_path / "new", {"seed": 7, "router_table": "shared"})
    old, new = load_model(base).supernet.state_dict(), load_model(made).supernet.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert load_model(made).router.config.table == "shared"
    assert made.manifest["status"] == "finished" and made.name == "new"
    assert made.manifest["routing"]["supernet_of"] == {"run": "base", "checkpoint_sha256": sha}
    assert made.manifest["routing"]["rule"].startswith("entropy of the small route, distilled: the ")
    assert made.manifest["progress"] == base.manifest["progress"]
    assert (tmp_path / "new" / "metrics.jsonl").read_bytes() == (
        base.directory / "metrics.jsonl"
    ).read_bytes()
    assert find_run(tmp_path / "latest").name == "new"
    assert find_run(base.directory).checkpoint_sha256 == sha, "the run itself is untouched"


def test_the_same_changes_give_the_same_router_as_training_did(
    run: Run, dataset: Dataset, tmp_path: Path
) -> None:
    assert_same(load_model(run), load_model(reroute(run, dataset, tmp_path / "again", {})))


def test_another_budget_gives_another_cost(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    costs = str(table(tmp_path / "phone.json"))
    spent = []
    for budget in (0.3, 0.6):
        made = reroute(run, dataset, tmp_path / f"b{budget}", {"budget": budget, "costs": costs})
        assert made.config.budget == budget and made.config.costs == costs
        spent.append(made.manifest["routing"]["operating_points"][1]["cost"]["value"])
    assert spent[0] <= 0.3 * 8 < spent[1] <= 0.6 * 8
    back = reroute(made, dataset, tmp_path / "paper", {"costs": "paper"})
    assert back.manifest["routing"]["operating_points"][1]["cost"]["unit"] == "paper MFLOPs"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (dict(depth="1,2"), UsageError, "depth belongs to the supernet"),
        (dict(seen="keep"), UsageError, "seen belongs to the supernet"),
        (dict(bugdet=0.2), UsageError, "did you mean 'budget'"),
        (dict(budget=0), UsageError, "budget = 0.0 is out of range"),
        (dict(router_label="luck"), UsageError, "unknown router_label 'luck'"),
        (dict(costs="nowhere.json"), CanetError, "no such table of costs"),
    ],
)
def test_a_bad_change_is_named_and_nothing_is_left(
    changes: dict, kind: type, message: str, run: Run, dataset: Dataset
) -> None:
    before = listing(run.directory.parent)
    with pytest.raises(kind, match=message):
        reroute(run, dataset, run.directory.parent / "new", changes)
    assert listing(run.directory.parent) == before
    assert find_run(run.directory.parent / "latest").name == "base"


def test_a_failure_half_way_leaves_nothing_and_keeps_the_older_run(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = reroute(run, dataset, tmp_path / "runs" / "new", {})
    before, sha = listing(tmp_path / "runs"), older.checkpoint_sha256

    def broken(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(reroute_module, "settle_routing", broken)
    with pytest.raises(KeyboardInterrupt):
        reroute(run, dataset, tmp_path / "runs" / "new", {"budget": 0.9}, force=True)
    with pytest.raises(KeyboardInterrupt):
        reroute(run, dataset, tmp_path / "elsewhere" / "new", {})
    assert listing(tmp_path / "runs") == before and not (tmp_path / "elsewhere").exists()
    kept = find_run(tmp_path / "runs" / "new")
    assert kept.checkpoint_sha256 == sha and load_model(kept)
    monkeypatch.undo()
    with pytest.raises(CanetError, match="already exists"):
        reroute(run, dataset, tmp_path / "runs" / "new", {})
    made = reroute(run, dataset, tmp_path / "runs" / "new", {"seed": 3}, force=True)
    assert made.config.seed == 3 and listing(tmp_path / "runs") == before


def test_runs_without_a_finished_router_are_refused(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    plain = train(
        small(model="sasrec", embedding=(8,), hidden=(8,), depth=(1,), epochs=1), dataset, tmp_path / "plain"
    )
    with pytest.raises(CanetError, match="is a sasrec run, which has no router"):
        reroute(plain, dataset, tmp_path / "new", {})
    with pytest.raises(CanetError, match="is the run itself"):
        reroute(run, dataset, run.directory, {}, force=True)
    unfinished = Run(run.directory, {**run.manifest, "status": "interrupted", "checkpoints": {}})
    with pytest.raises(CanetError, match="no finished model"):
        reroute(unfinished, dataset, tmp_path / "new", {})
    assert not (tmp_path / "new").exists() and load_model(find_run(run.directory))


def test_the_command_makes_a_run_that_later_commands_take(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "phone.json")
    options = ["--budget", "0.5", "--costs", "phone.json", "--set", "router_label=entropy", "--json"]
    assert command(["route", *options]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["name"] == "base-routed-1" and manifest["routing"]["rule"].startswith("entropy")
    assert manifest["config"]["costs"] == str((tmp_path / "phone.json").resolve())
    assert manifest["config"]["budget"] == 0.5
    assert command(["route", "runs/base", "--out", "runs/mine"]) == 0
    text = capsys.readouterr().out
    assert "runs/mine" in text and "advice" in text and "saver" in text
    assert command(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs/nowhere"], 1, "runs/nowhere"),
        (["runs/base", "--out", "runs/base", "--force"], 1, "is the run itself"),
        (["--costs", "nowhere.json"], 1, "canet-mobile replay PACKAGE --costs-out FILE"),
        (["--budget", "2"], 2, "give 0.01 to 1"),
        (["--budget", "much"], 2, "is not a valid float"),
        (["--set", "budget"], 2, "not key=value"),
        (["--set", "lr=0.1"], 2, f"one of {', '.join(ROUTER_KEYS)}"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    code: int,
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path / "runs")
    assert command(["route", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert listing(tmp_path / "runs") == before
