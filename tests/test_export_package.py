"""From a run to a package through the command line: what it holds, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_dataset, random_canet

from canet_export import package as packaging
from canet_export.parity import parity
from canet_mobile.cli.export import export
from canet_mobile.cli.inspect import inspect
from canet_mobile.cli.main import run as command_line
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError, ParityError, UsageError
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.files import describe_files
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.package import open_package
from canet_mobile.replay.device import open_device, recommend
from canet_mobile.replay.reference import ranks_in_lists
from canet_mobile.run.automatic import seen_protocol
from canet_mobile.run.checkpoint import identity, save_weights
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import Run, load_model, new_run, save_run
from canet_mobile.train.trainer import train

pytest.importorskip("executorch")
LENGTH = 8
SPACE = RoutingSpace((8,), (8,), (1, 2))


def make_run(directory: Path, dataset: Dataset, seed: int = 0) -> Run:
    """A finished run of an untrained model."""
    config = TrainConfig(
        embedding=SPACE.embedding, hidden=SPACE.hidden, depth=SPACE.depth, length=LENGTH, router_table="own"
    )
    run = new_run(directory, config, dataset, force=False)
    canet = random_canet(items=dataset.num_items, length=LENGTH, space=SPACE, table="own", seed=seed)
    save_weights(directory / "model.safetensors", canet, identity(config, dataset.content_hash))
    run.manifest["checkpoints"] = {"model": describe_files(directory, ["model.safetensors"])[0]}
    run.manifest["status"] = "finished"
    save_run(run)
    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Dataset]:
    root = tmp_path_factory.mktemp("world")
    dataset = make_dataset(root / "small")
    return make_run(root / "runs" / "first", dataset), dataset


def call(*arguments: object) -> Any:
    return CliRunner().invoke(export, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def made(world: tuple[Run, Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("packages") / "first"
    options = ("--routes", "all", "--k", 10, "--zip", "--json")
    result = call(world[0].directory, "--target", "executorch", "--out", out, *options)
    assert result.exit_code == 0, result.exception
    return out, result


def test_the_package_opens_and_its_checkpoint_agrees(
    world: tuple[Run, Dataset], made: tuple[Path, Any]
) -> None:
    package = open_package(made[0])
    assert not package.warnings
    assert {row.entry for row in package.golden} == {"e8_h8_d1", "e8_h8_d2"}
    for entry in ("e8_h8_d1", "e8_h8_d2"):
        rows = [row for row in package.golden if row.entry == entry]
        assert len(rows) == 2
        assert sorted((row.input > 0).sum() for row in rows)[0] == 1
    report = parity(package, reference=load_model(world[0]))
    assert report["passed"], report["failures"]


def test_the_manifest_is_printed_and_names_its_sources(
    world: tuple[Run, Dataset], made: tuple[Path, Any]
) -> None:
    run, dataset = world
    manifest = json.loads(made[1].stdout)
    assert manifest == json.loads((made[0] / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["checkpoint"] == {"sha256": run.checkpoint_sha256}
    assert manifest["dataset"] == {"name": dataset.name, "content_hash": dataset.content_hash}
    assert manifest["quantization"] == "int8"
    assert manifest["seen"] == seen_protocol(run.config, dataset)
    assert manifest["router"]["table"] == "own"
    assert [row["id"] for row in manifest["routes"]] == [0, 1]
    assert manifest["interface"]["point_input"] == "point"
    lines = (made[0] / "items.csv").read_text(encoding="utf-8").splitlines()
    first = dataset.item_table().sort("index").row(0, named=True)
    assert lines[:2] == ["index,item_id,title", f"1,{first['item_id']},{first['title'] or ''}"]
    assert len(lines) == dataset.num_items + 1


def test_the_operating_points_are_measured_on_the_package(
    world: tuple[Run, Dataset], made: tuple[Path, Any]
) -> None:
    package, canet = open_package(made[0]), load_model(world[0])
    manifest, points = package.manifest, package.manifest.operating_points
    assert manifest.accuracy is not None
    assert [(row.id, row.name) for row in points] == [(0, "saver"), (1, "balanced"), (2, "best")]
    assert manifest.default_point == "balanced"
    assert points[1].package_host == manifest.accuracy.package_host
    queries = held_out(world[1], "validation", limit=500)
    device = open_device(package)
    executed = {row.entry: row.executed_mflops for row in manifest.routes}
    for row in points:
        found = [
            recommend(device, package, seq, row.id) for seq in queries.inputs(slice(None), package.length)
        ]
        used = Counter(package.route(answer.route).entry for answer in found)
        assert row.shares == {entry: pytest.approx(count / len(found)) for entry, count in used.items()}
        mean = sum(executed[entry] * share for entry, share in row.shares.items())
        assert row.executed_mflops == pytest.approx(mean + manifest.router.executed_mflops, abs=1e-3)
        ranks = ranks_in_lists(np.stack([answer.ids for answer in found]), queries.targets)
        assert row.package_host == pytest.approx(float(ndcg(ranks, 10).mean()))
    assert points[0].executed_mflops < points[2].executed_mflops
    seqs = torch.from_numpy(queries.inputs(slice(None), package.length)).long()
    assert (canet.route(seqs, 0) != canet.route(seqs, 2)).any()


def test_without_users_nothing_is_measured(world: tuple[Run, Dataset], tmp_path: Path) -> None:
    result = call(
        world[0].directory, "--target", "executorch", "--quantize", "fp32", "--routes", "e8_h8_d1",
        "--users", 0, "--out", tmp_path / "quick", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    manifest = json.loads(result.stdout)
    assert manifest["accuracy"] is None
    fields = ("paper_mflops", "executed_mflops", "shares", "router_agreement", "pytorch_fp32", "package_host")
    assert all(row[field] is None for row in manifest["operating_points"] for field in fields)
    assert "not measured" in CliRunner().invoke(inspect, [str(tmp_path / "quick")]).stdout


def test_the_zip_is_the_same_package(made: tuple[Path, Any]) -> None:
    archive = made[0].with_name("first.zip")
    assert open_package(archive).sha256 == open_package(made[0]).sha256
    assert zipfile.ZipFile(archive).namelist()[0] == "manifest.json"


def test_some_routes_in_fp32_with_seen_items_excluded(world: tuple[Run, Dataset], tmp_path: Path) -> None:
    result = call(
        world[0].directory, "--target", "executorch", "--quantize", "fp32", "--routes", "e8_h8_d1",
        "--seen", "exclude", "--k", 5, "--out", tmp_path / "one",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert "1 route(s)" in result.stdout
    assert "1 delegates for 1 routes" in result.stdout
    package = open_package(tmp_path / "one")
    # The router knows that the other route is not here, at every operating point.
    assert {row.routes for row in package.golden} == {(0, 0, 0)}
    assert package.manifest.accuracy is None  # lists of 5 have no NDCG@10
    assert [row.shares for row in package.manifest.operating_points] == [None, None, None]
    assert all(not set(row.ids.tolist()) & set(row.input.tolist()) for row in package.golden)


def test_by_default_the_routes_that_the_operating_points_use_are_exported(tmp_path: Path) -> None:
    """A trained run: its router uses two routes of eight at most, and the package routes as it does."""
    dataset = make_dataset(tmp_path / "small", users=300)
    config = TrainConfig(
        embedding=(8, 16),
        hidden=(8, 16),
        depth=(1, 2),
        length=LENGTH,
        epochs=1,
        warmup_steps=2,
        batch=16,
        threads=1,
    )
    run = train(config, dataset, tmp_path / "run")
    shares = [point["routes"] for point in run.manifest["routing"]["operating_points"]]
    used = {entry for routes in shares for entry, share in routes.items() if share >= 0.01}
    assert len(used) == 2
    result = call(run.directory, "--target", "executorch", "--k", 10, "--out", tmp_path / "p")
    assert result.exit_code == 0, result.exception
    assert all(entry in result.stderr for entry in used) and "2 of 8" in result.stderr
    package, canet = open_package(tmp_path / "p"), load_model(run)
    assert {route.entry for route in package.routes} == used
    assert (
        "routes              2 of 8 in the routing space"
        in CliRunner().invoke(inspect, [str(tmp_path / "p")]).stdout
    )
    assert parity(package, reference=canet)["passed"]
    seqs = held_out(dataset, "test").inputs(slice(None), LENGTH)
    device, chosen = open_device(package), set()
    for point in range(3):
        found = [recommend(device, package, seq, point).route for seq in seqs]
        expected = canet.route(torch.from_numpy(seqs).long(), point).tolist()
        assert np.mean(np.equal(found, expected)) >= 0.99
        chosen |= set(found)
    assert chosen == {route.id for route in package.routes}


def test_a_package_that_fails_its_check_is_not_left_behind(
    world: tuple[Run, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = packaging.golden_rows

    def wrong(*arguments: Any) -> list[dict[str, Any]]:
        found = rows(*arguments)
        found[0]["scores"] = [score + 1 for score in found[0]["scores"]]
        return found

    monkeypatch.setattr(packaging, "golden_rows", wrong)
    result = call(
        world[0].directory, "--target", "executorch", "--quantize", "fp32", "--routes", "e8_h8_d1",
        "--out", tmp_path / "packages" / "bad",
    )  # fmt: skip
    assert isinstance(result.exception, ParityError)
    assert "e8_h8_d1" in str(result.exception)
    assert not (tmp_path / "packages").exists()


def test_wrong_usage_is_refused_before_any_work(
    world: tuple[Run, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = world[0].directory
    for arguments, error, text in (
        (("--target", "executorch", "--route", "e8_h8_d1"), UsageError, "--route is for onnx"),
        (("--target", "onnx", "--split"), UsageError, "--split is for executorch"),
        (("--target", "executorch", "--max-mflops", "0.0001"), UsageError, "no route is that cheap"),
        (("--target", "executorch", "--routes", ","), UsageError, "names no route"),
        (
            ("--target", "executorch", "--routes", "e8_h8_d1", "--max-mflops", 9),
            UsageError,
            "give one of them",
        ),
        (("--target", "executorc"), UsageError, "did you mean 'executorch'"),
        (("--target", "executorch", "--routes", "e8_h8_d3"), UsageError, "did you mean 'e8_h8_d"),
        (("--target", "executorch", "--k", 4000), UsageError, "there are only"),
        (("--target", "executorch", "--data", tmp_path / "none"), CanetError, "none"),
    ):
        found = call(run, *arguments, "--out", tmp_path / "out").exception
        assert isinstance(found, error)
        assert text in str(found)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    found = call(run, "--target", "executorch", "--out", tmp_path / "mine", "--force").exception
    assert "is not replaced, with --force or without" in str(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert command_line(["export", str(tmp_path / "no-run"), "--target", "executorch"]) == 1
    assert "no-run" in capsys.readouterr().err


def test_help_shows_examples() -> None:
    assert "canet-mobile export --target executorch --zip" in call("--help").stdout
