"""Core ML packages from the command line to exit codes: export, parity, replay, damage, other systems."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from replay_toys import (
    LENGTH,
    SPACE,
    World,
    exported_to,
    exported_world,
    invoke,
    require_points_of_pytorch,
)

pytest.importorskip("coremltools")

from canet_export.coreml.mlpackage import MODEL, WEIGHTS
from canet_mobile.cli.export import export
from canet_mobile.cli.parity import parity
from canet_mobile.cli.replay import replay
from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import describe_files, read_json, write_json
from canet_mobile.model.points import POINTS
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import RuntimeFailure, open_device, recommend, run_entry, run_router
from canet_mobile.replay.mil.interpreter import Program
from canet_mobile.replay.reference import exported_job, routed_lists
from canet_mobile.replay.runtimes import coreml as runtime

K = 10
FILE = "canet.mlpackage"


exported = partial(exported_to, "coreml")


def relist(directory: Path) -> None:
    """Make the manifest agree with the files again, as somebody who hides a change would."""
    manifest = read_json(directory / "manifest.json")
    manifest["files"] = describe_files(directory, [entry["name"] for entry in manifest["files"]])
    write_json(directory / "manifest.json", manifest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return exported_world(tmp_path_factory.mktemp("coreml"), "coreml")


def test_the_manifest_says_what_an_app_needs(world: World) -> None:
    manifest = read_json(world.package / "manifest.json")
    assert manifest["model_file"] == FILE
    assert manifest["interface"] == {"style": "entries", "point_input": "point"}
    assert manifest["outputs"]["route"]["ids"] == {"shape": [1, K], "dtype": "int32"}
    assert manifest["minimum_os"] == {"ios": "18.0", "macos": "15.0"}
    assert manifest["runtime"] == {
        "specification_version": 9, "compute_precision": "float16",
        "router_compute_precision": "float32", "default_function": "router",
    }  # fmt: skip
    listed = [entry["name"] for entry in manifest["files"] if entry["name"].startswith(FILE)]
    assert listed == [f"{FILE}/Manifest.json", f"{FILE}/{MODEL}", f"{FILE}/{WEIGHTS}"]
    assert not open_package(world.package).warnings


def test_the_host_recommends_what_pytorch_does(world: World, tmp_path: Path) -> None:
    package = open_package(exported(world.run, tmp_path / "fp32", "--quantize", "fp32"))
    device = open_device(package)
    assert "not Core ML" in device.runtime
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    expected = routed_lists(world.canet, seqs, K, "keep")
    for row, seq in enumerate(seqs):
        found = recommend(device, package, seq)
        assert found.route == expected.routes[row]
        assert found.ids.tolist() == expected.ids[row].tolist()
        np.testing.assert_allclose(found.scores, expected.scores[row], atol=1e-4)


@pytest.mark.parametrize("options", [(), ("--minimum-os", "ios17")])
def test_every_operating_point_routes_as_pytorch_does(
    world: World, options: tuple[str, ...], tmp_path: Path
) -> None:
    out = exported(world.run, tmp_path / "older", *options) if options else world.package
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    require_points_of_pytorch(open_package(out), world.canet, seqs)


def test_a_zip_runs_too(world: World, tmp_path: Path) -> None:
    out = exported(world.run, tmp_path / "zipped", "--routes", "e8_h8_d1", "--zip")
    package = open_package(out.with_name("zipped.zip"))
    assert run_entry(open_device(package), "e8_h8_d1", np.ones(LENGTH, np.int32), K)[1].shape == (K,)


@pytest.mark.parametrize(
    "options",
    [
        ("--minimum-os", "ios17", "--seen", "exclude"),
        ("--quantize", "fp16", "--routes", "e8_h8_d1,e16_h8_d2"),
    ],
)
def test_other_packages_pass_parity(world: World, options: tuple[str, ...], tmp_path: Path) -> None:
    out = exported(world.run, tmp_path / "other", *options)
    package = open_package(out)
    older = "ios17" in options
    assert exported_job(package, world.canet).minimum_os == ("ios17" if older else None)
    assert len(package.manifest.parts) == (1 + len(SPACE) if older else 0)
    if older:
        assert package.manifest.minimum_os == {"ios": "17.0", "macos": "14.0"}
        assert all(not set(row.ids.tolist()) & set(row.input.tolist()) for row in package.golden)
    result = invoke(parity, out, "--run", world.run)
    assert result.exit_code == 0, (result.exception, result.output)


def test_int4_for_ios17_is_refused(world: World, tmp_path: Path) -> None:
    result = invoke(
        export, world.run, "--target", "coreml", "--quantize", "int4", "--minimum-os", "ios17",
        "--out", tmp_path / "no", "--allow-accuracy-drop",
    )  # fmt: skip
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "no").exists()


def test_parity_passes_and_a_changed_weight_is_exit_code_3(world: World, tmp_path: Path) -> None:
    result = invoke(parity, world.package, "--run", world.run, "--json")
    assert result.exit_code == 0, (result.exception, result.output)
    passed = {check["name"]: check["passed"] for check in json.loads(result.stdout)["checks"]}
    for name in ("weights", "golden", "numeric", "router", "overlap"):
        assert passed[name], passed
    spoiled = world.copy(tmp_path)
    weights = spoiled / FILE / WEIGHTS
    blob = bytearray(weights.read_bytes())
    integers = exported_job(open_package(spoiled), world.canet).integers
    assert integers is not None
    data = integers.tensors["supernet.item_table"].values[:, :8].numpy().tobytes()
    assert blob.count(data) == 1
    blob[blob.find(data) + 77] ^= 1
    weights.write_bytes(blob)
    result = invoke(parity, spoiled, "--run", world.run)
    assert "SHA-256 differs" in str(result.exception)
    relist(spoiled)
    result = invoke(parity, spoiled, "--run", world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    assert "supernet.item_table: integers: expected" in str(result.exception)
    assert "at [9, 5]" in str(result.exception)


@pytest.mark.parametrize("options", [(), ("--minimum-os", "ios17")])
def test_altered_points_are_exit_code_3(world: World, options: tuple[str, ...], tmp_path: Path) -> None:
    assert world.canet.router is not None
    points = world.canet.router.points.numpy()
    out = exported(world.run, tmp_path / "older", *options) if options else world.copy(tmp_path)
    weights = out / ("router.mlpackage" if options else FILE) / WEIGHTS
    data = weights.read_bytes()
    assert data.count(points.tobytes()) == 1
    weights.write_bytes(data.replace(points.tobytes(), points[[1, 1, 2]].tobytes()))
    relist(out)
    result = invoke(parity, out, "--run", world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    assert "weights: router, router.points: expected" in str(result.exception)


def test_replay_reports_accuracy_and_says_what_ran(world: World) -> None:
    result = invoke(replay, world.package, "--run", world.run, "--json")
    assert result.exit_code == 0, (result.exception, result.output)
    report = json.loads(result.stdout)
    assert report["agreement"]["router"] > 0.9
    assert "reference interpreter" in json.dumps(report)


def test_errors_of_the_runtime_name_file_and_entry(world: World, tmp_path: Path) -> None:
    package = open_package(world.package)
    device = open_device(package)
    with pytest.raises(RuntimeFailure, match="the entry 'e8_h8_d1' failed") as error:
        run_entry(runtime.open_device(package, 1), "e8_h8_d1", np.ones(LENGTH - 1, np.int32), K)
    assert error.value.where == package.model_path
    with pytest.raises(CanetError, match="unknown entry 'e8_h8_d3'"):
        run_entry(device, "e8_h8_d3", np.ones(LENGTH, np.int32), K)

    def spoiled(name: str, file: str, data: bytes) -> Package:
        (tmp_path / name).mkdir()
        broken = world.copy(tmp_path / name)
        (broken / FILE / file).write_bytes(data)
        relist(broken)
        return open_package(broken)

    half = (world.package / FILE / MODEL).read_bytes()[:5000]
    with pytest.raises(RuntimeFailure, match=r"its model\.mlmodel is damaged"):
        open_device(spoiled("model", MODEL, half))
    weights = (world.package / FILE / WEIGHTS).read_bytes()[:2000]
    device = open_device(spoiled("weights", WEIGHTS, weights))
    with pytest.raises(RuntimeFailure, match=r"the entry 'e16_h16_d2' failed: weight\.bin"):
        device.load("e16_h16_d2")


def test_a_missing_function_is_refused(world: World, tmp_path: Path) -> None:
    other = exported(world.run, tmp_path / "one", "--routes", "e8_h8_d1")
    broken = world.copy(tmp_path)
    shutil.rmtree(broken / FILE)
    shutil.copytree(other / FILE, broken / FILE)
    relist(broken)
    with pytest.raises(RuntimeFailure, match="does not hold the function 'e8_h8_d2'"):
        open_device(open_package(broken))


def test_the_interpreter_runs_on_as_many_threads_as_it_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info

    seen = []

    def watched(self: Program, **given: np.ndarray) -> dict[str, np.ndarray]:
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return {"route": np.zeros(1, np.int32)}

    monkeypatch.setattr(Program, "__call__", watched)
    for threads in (1, 2):
        device = open_device(open_package(world.package), threads=threads)
        run_router(device, np.ones(LENGTH, np.int32))
        assert seen.pop() == {device.threads} == {threads}


def test_the_host_answers_without_pytorch(world: World) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from pathlib import Path
from canet_mobile.package.package import open_package
from canet_mobile.replay.device import open_device, recommend
package = open_package(Path({str(world.package)!r}))
print(recommend(open_device(package), package, np.ones({LENGTH}, np.int32)).ids.tolist())
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8")
    package = open_package(world.package)
    ids = recommend(open_device(package), package, np.ones(LENGTH, np.int32)).ids
    assert json.loads(found.stdout.splitlines()[-1]) == ids.tolist()


@pytest.mark.parametrize("toolkit", ["coremltools.proto", "threadpoolctl"])
def test_a_missing_toolkit_names_the_extra(
    world: World, monkeypatch: pytest.MonkeyPatch, toolkit: str
) -> None:
    monkeypatch.setitem(sys.modules, toolkit, None)
    with pytest.raises(CanetError, match=f"needs .*{toolkit.partition('.')[0]}") as error:
        open_device(open_package(world.package))
    assert "pip install 'canet-mobile[coreml]'" in str(error.value)


def test_on_macos_core_ml_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed to coremltools there; Core ML itself does not run here."""
    asked = []

    class Model:
        def __init__(self, path: str, *, compute_units: str, function_name: str | None) -> None:
            asked.append((path, compute_units, function_name))

        def predict(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert given["seq"].shape == (1, LENGTH)
            if "point" in given:
                assert (given["point"].dtype, given["point"].shape) == (np.int32, (1,))
                return {"route": given["point"].astype(np.int64)}
            return {"ids": np.arange(K, dtype=np.int64)[None], "scores": np.ones((1, K), np.float16)}

    fake = SimpleNamespace(
        models=SimpleNamespace(MLModel=Model), ComputeUnit=SimpleNamespace(ALL="ALL"), __version__="9.0"
    )
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    package = open_package(world.package)
    device = open_device(package)
    assert device.runtime.startswith("Core ML")
    scores, ids, _ = run_entry(device, "e8_h8_d1", np.ones(LENGTH, np.int32), K)
    assert scores.tolist() == [1] * K
    assert ids.tolist() == list(range(K))
    for point in range(len(POINTS)):
        assert run_router(device, np.ones(LENGTH, np.int32), point)[0] == point
    assert asked == [(str(package.model_path), "ALL", entry) for entry in ("e8_h8_d1", "router")]
