"""inspect tells datasets, runs and packages apart and says what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from replay_toys import SPACE, refresh, toy_canet, toy_dataset, toy_run, write_package

from canet_export.measured import unmeasured_points
from canet_mobile.cli.inspect import inspect
from canet_mobile.files import read_json, write_json

SHARES: tuple[dict[str, float], ...] = (
    {"e8_h8_d1": 0.75, "e8_h8_d2": 0.25},
    {"e16_h8_d1": 1.0},
    {"e8_h8_d1": 0.2, "e8_h8_d2": 0.1, "e16_h16_d1": 0.3, "e16_h16_d2": 0.4},
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package", toy_canet())


def test_a_package_lists_every_route_its_costs_and_what_is_not_delegated(package: Path) -> None:
    delegation = [{"entry": "e8_h8_d1", "partitions": 3, "undelegated": {"aten.addmm.default": 7}}]
    accuracy = {"pytorch_fp32": 0.5, "pytorch_same_integers": None, "package_host": 0.49}
    points = [
        {**row, "paper_mflops": 1.5, "executed_mflops": 1.25, "package_host": 0.125, "shares": shares}
        for row, shares in zip(unmeasured_points(), SHARES, strict=True)
    ]
    refresh(package, delegation=delegation, accuracy=accuracy, operating_points=points)
    text = invoke(package).output
    lines = {
        line.split()[1]: line for line in text.splitlines() if "MFLOPs" not in line and len(line.split()) > 2
    }
    assert "3; aten.addmm.default x7" in lines["e8_h8_d1"]
    assert "?; nothing" in lines["e16_h16_d2"]
    assert "8.000     7.500" in lines["e16_h16_d2"]
    assert "PyTorch fp32 0.5000, package 0.4900" in text
    assert lines["saver"].endswith("1.500     1.250            0.1250   e8_h8_d1 75%, e8_h8_d2 25%")
    assert lines["balanced"].split()[2] == "*"  # the default
    assert lines["best"].endswith("e16_h16_d2 40%, e16_h16_d1 30%, e8_h8_d1 20%")  # three of four
    assert "top 20, seen=keep" in text
    assert "golden rows         16" in text
    found = json.loads(invoke(package, "--json").output)
    assert (found["kind"], len(found["entries"]), found["golden_rows"]) == ("package", 9, 16)
    assert found["entries"][1]["undelegated"] == {"aten.addmm.default": 7}
    assert found["entries"][0]["entry"] == "router"


def test_a_damaged_package_or_dataset_is_refused(package: Path, tmp_path: Path) -> None:
    (package / "canet.pte").write_bytes(b"short")
    assert "truncated" in str(invoke(package).exception)
    dataset = toy_dataset(tmp_path / "dataset").directory
    (dataset / "items.parquet").unlink()
    assert "items.parquet" in str(invoke(dataset).exception)


def test_a_dataset(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "dataset")
    text = invoke(dataset.directory).output
    assert "histories           40" in text
    assert f"interactions        {len(dataset.items)}" in text
    assert dataset.content_hash[:16] in text
    found = json.loads(invoke(dataset.directory / "manifest.json", "--json").output)
    assert (found["kind"], found["counts"]["items"]) == ("dataset", 60)


def test_a_run_finished_and_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path / "runs" / "first", toy_dataset(tmp_path / "dataset"), toy_canet(space=SPACE))
    text = invoke(run.directory).output
    assert "finished" in text
    assert "[8, 16] x [8, 16] x [1, 2]" in text
    assert "model.safetensors" in text
    assert "best epoch          none yet" in text
    manifest = read_json(run.directory / "manifest.json")
    manifest["progress"] |= {"epoch": 4, "best_epoch": 3, "best_ndcg10": 0.1234, "stopped_by": "patience"}
    write_json(run.directory / "manifest.json", manifest)
    (run.directory.parent / "latest").symlink_to("first")
    monkeypatch.chdir(tmp_path)
    text = invoke().output
    assert "3, validation NDCG@10 0.1234" in text
    assert "stopped by patience" in text
    assert json.loads(invoke("--json").output)["progress"]["best_epoch"] == 3


def test_what_is_nothing_of_ours_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run yet" in str(invoke().exception)
    assert "no such file or folder" in str(invoke("missing").exception)
    (tmp_path / "empty").mkdir()
    assert "not an artefact" in str(invoke("empty").exception)
    write_json(tmp_path / "empty" / "manifest.json", {"kind": "cake"})
    assert "'cake'" in str(invoke("empty").exception)
    (tmp_path / "text").write_text("x", encoding="utf-8")
    assert "neither a directory nor a whole zip" in str(invoke("text").exception)


def test_help_shows_examples() -> None:
    assert "canet-mobile inspect clicks.zip --json" in invoke("--help").output
