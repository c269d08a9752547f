"""Real packages through the real runtime, from checkpoint to exit code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_toys import (
    LENGTH,
    PROGRAM,
    K,
    World,
    invoke,
    refresh,
    toy_canet,
    toy_dataset,
    toy_run,
    write_package,
)

from canet_export.executorch.export import export
from canet_export.executorch.stored import check_stored, expected_constants
from canet_export.job import Job
from canet_mobile.cli.evaluate import evaluate
from canet_mobile.cli.parity import parity
from canet_mobile.cli.replay import replay
from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError
from canet_mobile.files import read_json, sha256_file
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.package import open_package
from canet_mobile.replay.device import RuntimeFailure, open_device, recommend, run_entry
from canet_mobile.replay.reference import exported_job, routed_lists
from canet_mobile.replay.runtimes.executorch import open_device as unguarded
from canet_mobile.schema import validate

pytest.importorskip("executorch")

SPACE = RoutingSpace((32,), (8, 16), (2,))


def make_world(root: Path, quantization: str) -> World:
    canet = toy_canet(space=SPACE)
    integers = quantize_model(canet) if quantization == "int8" else None
    job = Job(canet, integers, quantization, canet.space.routes, K)  # type: ignore[arg-type]
    dataset = toy_dataset(root / "dataset")
    run = toy_run(root / "run", dataset, canet)
    export(job, root)
    package = write_package(
        root / "package",
        job.reference,
        (root / "canet.pte").read_bytes(),
        quantization=quantization,
        integers=None
        if integers is None
        else {"sha256": integers.sha256, "tensors": len(integers.tensors), "higher_precision": []},
        dataset={"name": "toy", "content_hash": dataset.content_hash},
        checkpoint={"sha256": run.checkpoint_sha256},
    )
    return World(canet, dataset.directory, run.directory, package)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("fp32"), "fp32")


@pytest.fixture(scope="module")
def int8_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("int8"), "int8")


def flip(path: Path, needle: bytes, offset: int, mask: int) -> None:
    """Change one byte of the one place where ``needle`` stands, and hide it from the manifest."""
    blob = bytearray(path.read_bytes())
    assert blob.count(needle) == 1
    blob[blob.find(needle) + offset] ^= mask
    path.write_bytes(bytes(blob))
    refresh(path.parent)


def test_the_runtime_recommends_what_pytorch_does(world: World) -> None:
    package = open_package(world.package)
    device = open_device(package)
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    chosen = set()
    for point in range(len(POINTS)):
        expected = routed_lists(world.canet, seqs, K, "keep", point)
        chosen.add(tuple(expected.routes))
        for row, seq in enumerate(seqs):
            found = recommend(device, package, seq, point)
            assert found.route == expected.routes[row]
            assert found.ids.tolist() == expected.ids[row].tolist()
            np.testing.assert_allclose(found.scores, expected.scores[row], atol=1e-4)
            assert min(found.router_ns, found.submodel_ns) > 0
    assert len(chosen) == len(POINTS)
    assert set().union(*chosen) == {0, 1}
    assert device.program_ms > 0
    assert device.load("router") == device.load("router") > 0


def test_errors_of_the_runtime_name_the_method_and_the_code(world: World, tmp_path: Path) -> None:
    package = open_package(world.package)
    device = open_device(package)
    with pytest.raises(RuntimeFailure, match=r"method 'e32_h8_d2' failed with error 0x10 \(NotSupported\)"):
        run_entry(unguarded(package, 1), "e32_h8_d2", np.ones(LENGTH - 1, np.int32), K)
    with pytest.raises(CanetError, match="unknown entry 'e32_h8_d3'"):
        run_entry(device, "e32_h8_d3", np.ones(LENGTH, np.int32), K)
    broken = write_package(tmp_path / "broken", world.canet, PROGRAM + bytes(4096))
    with pytest.raises(RuntimeFailure, match="the program does not load with error 0x"):
        open_device(open_package(broken))


def test_a_missing_toolkit_names_the_extra(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(CanetError, match="needs ExecuTorch") as error:
        open_device(open_package(world.package))
    assert "canet-mobile[executorch]" in str(error.value)


def test_parity_passes_with_and_without_the_checkpoint(world: World, tmp_path: Path) -> None:
    result = invoke(parity, world.package, "--run", world.run, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    validate(report, "parity", where="stdout")
    passed = {check["name"]: check["passed"] for check in report["checks"]}
    assert passed == dict.fromkeys(["weights", "golden", "structural", "router", "task"], True)
    assert report["checks"][2]["value"] < 1e-4
    result = invoke(parity, world.copy(tmp_path))
    assert result.exit_code == 0
    assert "only the golden rows" in result.stderr
    sha = open_package(world.package).manifest.checkpoint_sha256
    assert (
        f"no run with the checkpoint {sha[:12]}… in runs/, {tmp_path}/: name it with --run" in result.stderr
    )
    assert "golden      ok" in result.stdout


def test_run_and_dataset_are_found_by_their_hashes_under_any_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = world.copy(tmp_path / "elsewhere")
    shutil.copytree(world.run, tmp_path / "runs" / "renamed")
    result = invoke(parity, package)
    assert "dataset 'toy'" in str(result.exception), "the run is here, its data set is not"
    shutil.copytree(world.dataset, tmp_path / "datasets" / "renamed too")
    toy_dataset(tmp_path / "datasets" / "another", seed=1)
    report = json.loads(invoke(parity, package, "--json").stdout)
    assert report["checkpoint"] and report["passed"]
    report = json.loads(invoke(replay, package, "--limit", 3, "--json").stdout)
    assert report["metrics"]["pytorch"] is not None
    assert report["package"]["path"] == "elsewhere/copy"
    result = invoke(evaluate, "runs/renamed", "--limit", 3, "--json")
    assert json.loads(result.stdout)["users"] == 3


def test_a_changed_byte_ends_in_exit_code_3(world: World, tmp_path: Path) -> None:
    package = world.copy(tmp_path)
    path = package / "canet.pte"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(bytes(blob))
    result = invoke(parity, package)
    assert getattr(result.exception, "exit_code", None) == 3
    assert "canet.pte" in str(result.exception)
    assert getattr(invoke(replay, package).exception, "exit_code", None) == 1


def test_a_changed_byte_with_the_right_hash_is_caught_by_the_golden_rows(
    world: World, tmp_path: Path
) -> None:
    package = world.copy(tmp_path)
    weight = world.canet.supernet.in_weight.detach().numpy().tobytes()
    flip(package / "canet.pte", weight, 3, 0x80)  # the sign of the first weight; the small route has its own
    result = invoke(parity, package)
    assert getattr(result.exception, "exit_code", None) == 3
    text = str(result.exception)
    assert "e32_h16_d2, golden.jsonl line" in text
    assert "expected" in text
    assert "e32_h8_d2" not in text


def test_a_byte_too_small_to_move_a_score_is_caught_by_the_bytes(world: World, tmp_path: Path) -> None:
    package = world.copy(tmp_path)
    table = world.canet.supernet.item_table.detach().contiguous().numpy().tobytes()
    flip(package / "canet.pte", table, 4 * 32 * 5, 0x01)  # the last bit of the mantissa of item 5
    assert invoke(parity, package).exit_code == 0  # the golden rows alone cannot see it
    result = invoke(parity, package, "--run", world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    text = str(result.exception)
    assert "weights: " in text
    assert "table.items_0_32.weight" in text
    assert "1 other byte(s)" in text


def test_every_constant_is_looked_for_at_a_place_of_its_own(world: World, tmp_path: Path) -> None:
    job = exported_job(open_package(world.package), world.canet)
    constants = expected_constants(job)
    blob = (world.package / "canet.pte").read_bytes()
    package = world.copy(tmp_path)
    path = package / "canet.pte"
    tried = 0
    for constant in constants:
        data = constant.data
        if len(data) < 64 or blob.count(data) != 1:
            continue
        tried += 1
        flip(path, data, len(data) // 2, 0x01)
        check = check_stored(package, job)
        assert [failure.tensor for failure in check.failures] == [constant.name]
        path.write_bytes(blob)
    assert tried > 20


def test_damage_to_a_small_slice_does_not_hide_behind_a_larger_one(world: World, tmp_path: Path) -> None:
    weight = world.canet.supernet.in_weight.detach().numpy()
    large, small = weight.tobytes(), weight[:8].tobytes()
    package = world.copy(tmp_path)
    path = package / "canet.pte"
    blob = bytearray(path.read_bytes())
    assert blob.count(small) == 2  # one of them is the beginning of the large one
    inside = blob.find(large)
    own = blob.find(small) if blob.find(small) != inside else blob.find(small, inside + 1)
    blob[own + 9] ^= 1
    path.write_bytes(bytes(blob))
    refresh(package)
    job = exported_job(open_package(package), world.canet)
    (failure,) = check_stored(package, job).failures
    assert (failure.entry, failure.tensor) == ("e32_h8_d2", "project.weight")
    assert f"offset {own + 9}" in failure.found


def test_int8_is_compared_with_the_same_integers(int8_world: World, tmp_path: Path) -> None:
    result = invoke(parity, int8_world.package, "--run", int8_world.run, "--json")
    report = json.loads(result.stdout)
    validate(report, "parity", where="stdout")
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == ["weights", "golden", "numeric", "overlap", "router", "task"]
    assert all(check["passed"] for name, check in checks.items() if name != "task"), checks
    assert 1e-6 < checks["numeric"]["value"] < 0.05
    package = int8_world.copy(tmp_path)
    integers = quantize_model(int8_world.canet).tensors["supernet.in_weight"].values.numpy().tobytes()
    flip(package / "canet.pte", integers, 5, 0x01)  # one integer, by one
    result = invoke(parity, package, "--run", int8_world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    assert "weights: e32_h16_d2, project.values" in str(result.exception)


def test_another_checkpoint_or_dataset_is_refused_by_hash(world: World, tmp_path: Path) -> None:
    other = toy_dataset(tmp_path / "other", seed=1)
    run = toy_run(tmp_path / "other-run", other, toy_canet(seed=1, space=SPACE))
    for command in (parity, replay):
        result = invoke(command, world.package, "--run", run.directory)
        assert "was exported from" in str(result.exception)
        result = invoke(command, world.package, "--run", world.run, "--data", other.directory)
        assert "content hash" in str(result.exception)
        assert getattr(result.exception, "exit_code", None) == 1
    package = world.copy(tmp_path)
    result = invoke(replay, package)
    found = open_package(package).manifest.dataset.content_hash[:12]
    assert f"dataset 'toy' (content hash {found}…) is not here; looked in datasets/, {tmp_path}/" in str(
        result.exception
    )
    assert "--data" in str(result.exception)


def test_replay_reports_accuracy_latency_and_memory(world: World, tmp_path: Path) -> None:
    out = tmp_path / "replay.json"
    result = invoke(replay, world.package, "--run", world.run, "--limit", 12, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == read_json(out)
    validate(report, "replay", where="stdout")
    assert report["data"]["users"] == sum(row["users"] for row in report["routes"]) == 12
    assert report["data"]["of"] == 40
    assert report["metrics"]["package"] == pytest.approx(report["metrics"]["pytorch"])
    assert report["agreement"] == {"router": 1.0, "top10_overlap": 1.0}
    latency = report["latency_ms"]
    assert 0 < latency["router"]["p50"] <= latency["total"]["p50"] <= latency["total"]["p99"]
    assert report["package"]["sha256"] == sha256_file(world.package / "manifest.json")
    assert report["device"] == {"name": "host", "runtime": "executorch 1.5.1", "threads": 1}
    assert report["point"] == "balanced"
    text = invoke(replay, world.copy(tmp_path), "--data", world.dataset, "--limit", 3).output
    assert "3 of 40 test users at 'balanced'" in text
    assert "NDCG@10" in text
    assert "no PyTorch figures" in text


def test_replay_at_an_operating_point(world: World) -> None:
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    costs = set()
    for point, name in enumerate(POINTS):
        result = invoke(replay, world.package, "--run", world.run, "--limit", 40, "--point", name, "--json")
        report = json.loads(result.stdout)
        validate(report, "replay", where="stdout")
        assert report["point"] == name
        users = np.bincount(routed_lists(world.canet, seqs, K, "keep", point).routes, minlength=2)
        assert [row["users"] for row in report["routes"]] == users.tolist()
        assert report["agreement"]["router"] == 1.0
        costs.add(report["costs"]["executed_mflops"])
    assert len(costs) == len(POINTS)
    error = invoke(replay, world.package, "--point", "savor").exception
    assert getattr(error, "exit_code", None) == 2
    assert "unknown operating point 'savor'" in str(error)
    assert "did you mean 'saver'?" in str(error)


def test_altered_points_are_refused_by_name(world: World, tmp_path: Path) -> None:
    assert world.canet.router is not None
    points = world.canet.router.points.numpy()
    package = world.copy(tmp_path)
    flip(package / "canet.pte", points.tobytes(), 4 * points.shape[1] * POINTS.index("best") + 3, 0x80)
    result = invoke(parity, package, "--run", world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    text = str(result.exception)
    assert "weights: router, points: " in text
    assert "route at best" in text
    assert "route at saver" not in text


def test_replay_refuses_devices_that_are_not_built(world: World) -> None:
    result = invoke(replay, world.package, "--device", "arm64")
    assert getattr(result.exception, "exit_code", None) == 2
    assert "not built yet" in str(result.exception)
    result = invoke(replay, world.package, "--device", "hots")
    assert "did you mean 'host'" in str(result.exception)


@pytest.mark.parametrize("command", [parity, replay])
def test_help_shows_examples(command: Any) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"canet-mobile {command.name} packages/clicks" in result.output
