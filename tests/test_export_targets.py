"""All targets from one run: the same integers, one interface, and nothing left where one of them fails."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_dataset
from test_export_package import make_run
from test_same_bytes import files, in_a_process

from canet_export.onnx.ort_format import read_initializers
from canet_export.targets import TARGETS, find_targets
from canet_mobile.cli.export import export
from canet_mobile.cli.inspect import inspect
from canet_mobile.cli.parity import parity
from canet_mobile.cli.replay import replay
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import describe_files, read_json, write_json
from canet_mobile.model.points import POINTS
from canet_mobile.package.package import open_package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import open_device, recommend, run_router
from canet_mobile.run.checkpoint import build_model, identity, save_weights
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import new_run, save_run

for toolkit in ("executorch", "coremltools", "litert_torch", "onnxruntime"):
    pytest.importorskip(toolkit)


def call(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    return make_run(root / "runs" / "first", make_dataset(root / "small")).directory


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a plain SASRec, untrained."""
    root = tmp_path_factory.mktemp("plain")
    dataset = make_dataset(root / "small")
    config = TrainConfig(model="sasrec", embedding=(8,), hidden=(8,), depth=(2,), length=8)
    run = new_run(root / "runs" / "plain", config, dataset, force=False)
    model = build_model(config, dataset.num_items)
    save_weights(run.directory / "model.safetensors", model, identity(config, dataset.content_hash))
    run.manifest["checkpoints"] = {"model": describe_files(run.directory, ["model.safetensors"])[0]}
    run.manifest["status"] = "finished"
    save_run(run)
    return run.directory


@pytest.fixture(scope="module")
def packages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packages") / "all"
    result = call(export, run, "--target", "all", "--k", 10, "--users", 20, "--out", out, "--json")
    assert result.exit_code == 0, result.exception
    assert [manifest["target"] for manifest in json.loads(result.stdout)] == list(TARGETS)
    return out


def test_every_target_holds_the_same_integers_and_gives_the_same_lists(packages: Path) -> None:
    opened = {name: open_package(packages / name) for name in TARGETS}
    hashes = {package.manifest.integers.sha256 for package in opened.values()}
    assert len(hashes) == 1
    histories = [row.input for row in opened["onnx"].golden]
    answers = {}
    for name, package in opened.items():
        device = open_device(package)
        answers[name] = [
            recommend(device, package, seq, point) for seq in histories for point in range(len(POINTS))
        ]
    for name, found in answers.items():
        for ours, theirs in zip(found, answers["onnx"], strict=True):
            assert ours.route == theirs.route, name
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.05 * np.abs(theirs.scores).max())


def test_a_run_exported_twice_is_the_same_bytes(run: Path, packages: Path, tmp_path: Path) -> None:
    in_a_process(
        7, tmp_path, "export", run, "--target", "all", "--k", 10, "--users", 20, "--out", tmp_path / "all"
    )
    first, second = files(packages), files(tmp_path / "all")
    assert first.keys() == second.keys()
    # ONNX Runtime puts the tensors of an .ort in another order every time.
    places = {name for name in first if first[name] != second[name]}
    assert places <= {"onnx/canet.ort", "onnx/manifest.json"}
    ort, ort_again = (read_initializers(at / "onnx" / "canet.ort") for at in (packages, tmp_path / "all"))
    assert ort.keys() == ort_again.keys()
    assert all(np.array_equal(ort[name], ort_again[name]) for name in ort)
    manifests = [json.loads(found["onnx/manifest.json"]) for found in (first, second)]
    for manifest in manifests:
        manifest["files"] = [entry for entry in manifest["files"] if entry["name"] != "canet.ort"]
    assert manifests[0] == manifests[1]


def test_every_target_has_the_same_operating_points(packages: Path) -> None:
    manifests = [open_package(packages / name).manifest for name in TARGETS]
    points = [
        [replace(row, package_host=None) for row in manifest.operating_points] for manifest in manifests
    ]
    assert all(each == points[0] for each in points)
    assert {manifest.interface.point_input for manifest in manifests} == {"point"}
    assert all(row.package_host is not None for each in manifests for row in each.operating_points)


@pytest.mark.parametrize("name", TARGETS)
def test_a_point_that_is_none_is_refused_before_the_runtime_sees_it(packages: Path, name: str) -> None:
    package = open_package(packages / name)
    device, row = open_device(package), package.golden[0]
    for point in (-1, len(POINTS), 2**31 - 1, 2**31, -(2**31)):
        for ask in (partial(run_router, device), partial(recommend, device, package)):
            with pytest.raises(Refused, match=f"there is no operating point {point}") as error:
                ask(row.input, point)
            assert error.value.code is Code.POINT_UNKNOWN and error.value.where == package.source
            assert error.value.fix == "one of: 0 saver, 1 balanced, 2 best"
    assert run_router(device, row.input, len(POINTS) - 1)[0] == row.routes[-1]


@pytest.mark.parametrize("name", TARGETS)
def test_a_plain_sasrec_takes_a_point_and_has_none(plain_run: Path, tmp_path: Path, name: str) -> None:
    made = call(
        export, plain_run, "--target", name, "--k", 10, "--users", 5, "--out", tmp_path / "plain", "--json"
    )
    assert made.exit_code == 0, made.exception
    manifest = json.loads(made.stdout)
    assert (manifest["operating_points"], manifest["default_point"]) == ([], None)
    assert manifest["interface"]["point_input"] == "point"
    assert manifest["accuracy"]["package_host"] is not None
    package = open_package(tmp_path / "plain")
    device = open_device(package)
    for row in package.golden:
        assert [run_router(device, row.input, point)[0] for point in range(len(POINTS))] == [0, 0, 0]
    checked = call(parity, tmp_path / "plain", "--run", plain_run, "--users", 10, "--json")
    assert {check["passed"] for check in json.loads(checked.stdout)["checks"]} <= {True, None}
    replayed = call(replay, tmp_path / "plain", "--run", plain_run, "--limit", 5, "--json")
    assert json.loads(replayed.stdout)["point"] is None
    refused = call(replay, tmp_path / "plain", "--run", plain_run, "--point", "saver")
    assert "'saver' chooses nothing: the package has no router" in str(refused.exception)


@pytest.mark.parametrize("name", TARGETS)
def test_parity_and_inspect_read_every_target(run: Path, packages: Path, name: str) -> None:
    result = call(parity, packages / name, "--run", run, "--users", 30, "--json")
    report = json.loads(result.stdout)
    failed = [check for check in report["checks"] if check["passed"] is False]
    assert [check["name"] for check in failed if check["name"] != "task"] == []
    assert {"weights", "golden", "numeric", "router"} <= {check["name"] for check in report["checks"]}
    text = call(inspect, packages / name).stdout
    for part in (
        "item table",
        "classifier",
        "layers",
        "router",
        "graph",
        "full model alone",
        "separate files",
    ):
        assert part in text


@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_byte_is_refused_by_name(packages: Path, tmp_path: Path, name: str) -> None:
    import shutil

    copy = Path(shutil.copytree(packages / name, tmp_path / "copy"))
    listed = read_json(copy / "manifest.json")["files"]
    largest = copy / max(listed, key=lambda entry: entry["bytes"])["name"]
    blob = bytearray(largest.read_bytes())
    blob[len(blob) // 2] ^= 1
    largest.write_bytes(blob)
    result = call(parity, copy)
    assert result.exit_code != 0
    assert largest.name in str(result.exception)
    assert "SHA-256" in str(result.exception)


@pytest.mark.parametrize("name", TARGETS)
def test_a_manifest_of_another_version_is_refused(packages: Path, tmp_path: Path, name: str) -> None:
    import shutil

    copy = Path(shutil.copytree(packages / name, tmp_path / "copy"))
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {**manifest, "schema_version": 3})
    with pytest.raises(CanetError, match="schema_version is 3"):
        open_package(copy)


def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(TARGETS["onnx"]), "export", full)
    error = call(export, run, "--target", "onnx", "--out", tmp_path / "packages" / "x").exception
    assert isinstance(error, CanetError)
    assert "space" in str(error)
    assert not (tmp_path / "packages").exists()


MODULES = {"coreml": "coremltools", "tflite": "litert_torch", "onnx": "onnx"}


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_toolkit_names_its_extra_before_any_work(
    run: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    for target in (name, "all"):
        error = call(export, run, "--target", target, "--out", tmp_path / "out").exception
        assert isinstance(error, CanetError)
        assert f"canet-mobile[{name}]" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_system_without_the_toolkit_is_told_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(CanetError, match=r"cannot be made on win32(.|\n)*export on Linux or macOS"):
        TARGETS["coreml"].require_toolkit()
    TARGETS["onnx"].require_toolkit()


def test_one_folder_that_stands_there_stops_all_four(run: Path, tmp_path: Path) -> None:
    (tmp_path / "all" / "onnx").mkdir(parents=True)
    (tmp_path / "all" / "onnx" / "notes.txt").write_text("mine", encoding="utf-8")
    error = call(export, run, "--target", "all", "--out", tmp_path / "all").exception
    assert "not an artefact of canet-mobile" in str(error)
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["onnx"]


def test_targets_are_found_by_name() -> None:
    assert [target.name for target in find_targets("all")] == list(TARGETS)
    with pytest.raises(UsageError, match="did you mean 'tflite'"):
        find_targets("tflit")


def test_a_preset_that_a_target_cannot_write_says_why() -> None:
    for target in TARGETS.values():
        for preset in {"fp32", "fp16", "int8", "int4"} - set(target.quantizations):
            with pytest.raises(
                UsageError, match=f"--quantize {preset} is not possible for {target.name}: ..."
            ):
                target.require_quantization(preset)
            assert len(target.refusals[preset]) > 20
