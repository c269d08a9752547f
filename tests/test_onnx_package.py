"""ONNX packages from the command line to exit codes: export, parity, replay, damage."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from replay_toys import (
    LENGTH,
    SPACE,
    World,
    exported_to,
    exported_world,
    invoke,
    refresh,
    require_points_of_pytorch,
)

from canet_mobile.cli.parity import parity
from canet_mobile.cli.replay import replay
from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import read_json, write_json
from canet_mobile.model.points import POINTS
from canet_mobile.package.package import open_package
from canet_mobile.replay import timing
from canet_mobile.replay.device import (
    WARM_UPS,
    Answer,
    RuntimeFailure,
    open_device,
    recommend,
    run_entry,
    run_router,
)
from canet_mobile.replay.reference import exported_job, routed_lists
from canet_mobile.replay.runtimes.onnx import open_device as unguarded
from canet_mobile.routing.budget import spending_of
from canet_mobile.run.config import TrainConfig
from canet_mobile.schema import validate

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
K = 10


exported = partial(exported_to, "onnx")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return exported_world(tmp_path_factory.mktemp("onnx"), "onnx")


def test_the_manifest_says_how_the_graph_is_called(world: World) -> None:
    manifest = read_json(world.package / "manifest.json")
    assert manifest["model_file"] == "canet.onnx"
    interface = {"style": "one_graph", "route_input": "force_route", "point_input": "point"}
    assert manifest["interface"] == interface
    assert manifest["outputs"]["router"]["route"]["dtype"] == "int64"
    runtime = manifest["runtime"]
    assert (runtime["opset"], runtime["ir_version"], runtime["router_alone"]) == (21, 10, -2)
    assert runtime["ort_file"] == "canet.ort"
    listed = {entry["name"] for entry in manifest["files"]}
    assert {"canet.onnx", "canet.ort", "required_operators.config"} <= listed
    assert manifest["sizes"]["total_bytes"] == (world.package / "canet.onnx").stat().st_size


def test_the_runtime_recommends_what_pytorch_does(world: World, tmp_path: Path) -> None:
    package = open_package(exported(world.run, tmp_path / "fp32", "--quantize", "fp32"))
    device = open_device(package)
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    expected = routed_lists(world.canet, seqs, K, "keep")
    assert len(set(expected.routes)) > 1
    for row, seq in enumerate(seqs):
        found = recommend(device, package, seq)
        assert found.route == expected.routes[row]
        assert found.ids.tolist() == expected.ids[row].tolist()
        np.testing.assert_allclose(found.scores, expected.scores[row], atol=1e-4)
    assert device.program_ms > 0
    assert device.load("router") == 0


def test_every_operating_point_routes_as_pytorch_does(world: World) -> None:
    seqs = held_out(load_dataset(world.dataset), "test").inputs(slice(None), LENGTH)
    require_points_of_pytorch(open_package(world.package), world.canet, seqs)


def test_errors_of_the_runtime_name_file_and_entry(world: World, tmp_path: Path) -> None:
    package = open_package(world.package)
    device = open_device(package)
    with pytest.raises(RuntimeFailure, match="the entry 'e8_h8_d1' failed") as error:
        run_entry(unguarded(package, 1), "e8_h8_d1", np.ones(LENGTH - 1, np.int32), K)
    assert error.value.where == package.model_path
    with pytest.raises(CanetError, match="unknown entry 'e8_h8_d3'"):
        run_entry(device, "e8_h8_d3", np.ones(LENGTH, np.int32), K)
    for name, data in (
        ("nothing", b"\x08" + bytes(999)),
        ("half", (world.package / "canet.onnx").read_bytes()[:5000]),
    ):
        (tmp_path / name).mkdir()
        broken = world.copy(tmp_path / name)
        (broken / "canet.onnx").write_bytes(data)
        refresh(broken)
        with pytest.raises(RuntimeFailure, match="the graph does not load"):
            open_device(open_package(broken))


def test_a_graph_without_its_inputs_is_refused(world: World, tmp_path: Path) -> None:
    broken = world.copy(tmp_path)
    interface = {"style": "one_graph", "route_input": "other_name"}
    refresh(broken, interface=interface)
    with pytest.raises(RuntimeFailure, match="does not have other_name"):
        open_device(open_package(broken))
    promised = read_json(world.package / "manifest.json")["interface"]
    model = onnx.load(broken / "canet.onnx")
    model.graph.initializer.append(onnx.helper.make_tensor("point", 6, [1], [1]))  # a default
    onnx.save(model, broken / "canet.onnx")
    refresh(broken, interface=promised)
    with pytest.raises(RuntimeFailure, match="does not have point, which the manifest promises"):
        open_device(open_package(broken))
    model.graph.initializer.pop()
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "point"))
    model.graph.node.insert(
        0, onnx.helper.make_node("Constant", [], ["point"], value=onnx.helper.make_tensor("p", 6, [1], [1]))
    )
    onnx.save(model, broken / "canet.onnx")
    refresh(broken, interface=promised)
    with pytest.raises(RuntimeFailure, match="does not have point, which the manifest promises"):
        open_device(open_package(broken))


def test_a_missing_toolkit_names_the_extra(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CanetError, match="needs ONNX Runtime") as error:
        open_device(open_package(world.package))
    assert "canet-mobile[onnx]" in str(error.value)


def test_parity_passes_and_a_changed_weight_is_exit_code_3(world: World, tmp_path: Path) -> None:
    result = invoke(parity, world.package, "--run", world.run, "--json")
    assert result.exit_code == 0, (result.exception, result.output)
    passed = {check["name"]: check["passed"] for check in json.loads(result.stdout)["checks"]}
    for name in ("weights", "golden", "numeric", "router", "overlap"):
        assert passed[name], passed
    spoiled = world.copy(tmp_path)
    blob = bytearray((spoiled / "canet.ort").read_bytes())
    integers = exported_job(open_package(spoiled), world.canet).integers
    assert integers is not None
    values = integers.tensors["supernet.item_table"].values.numpy()
    data = (values.astype(np.int16) + 128).astype(np.uint8).tobytes()
    assert blob.count(data) == 1
    blob[blob.find(data) + 77] ^= 1
    (spoiled / "canet.ort").write_bytes(bytes(blob))
    refresh(spoiled)
    result = invoke(parity, spoiled, "--run", world.run)
    assert result.exit_code == 1  # click's; the command line turns the error into 3
    assert getattr(result.exception, "exit_code", None) == 3
    assert "canet.ort: supernet.item_table" in str(result.exception)


@pytest.mark.parametrize("file", ["canet.onnx", "canet.ort"])
def test_altered_points_are_exit_code_3(world: World, file: str, tmp_path: Path) -> None:
    assert world.canet.router is not None
    points = world.canet.router.points.numpy()
    spoiled = world.copy(tmp_path)
    data = (spoiled / file).read_bytes()
    assert data.count(points.tobytes()) == 1
    (spoiled / file).write_bytes(data.replace(points.tobytes(), points[[1, 1, 2]].tobytes()))
    refresh(spoiled)
    result = invoke(parity, spoiled, "--run", world.run)
    assert getattr(result.exception, "exit_code", None) == 3
    assert f"{file}: router.points" in str(result.exception)


@pytest.mark.parametrize("quantization", ["fp16", "int8"])
def test_a_plain_package_of_one_route(world: World, quantization: str, tmp_path: Path) -> None:
    out = exported(world.run, tmp_path / "plain", "--route", "e8_h16_d2", "--quantize", quantization)
    package = open_package(out)
    assert package.manifest.document["interface"] == {"style": "one_graph", "plain": True}
    assert package.manifest.router.table is None  # a server pays for no router
    assert package.manifest.router.paper_mflops == 0
    assert exported_job(package, world.canet).plain
    device = open_device(package)
    seq = np.arange(1, LENGTH + 1, dtype=np.int32)
    for point in range(len(POINTS)):  # whichever is asked for
        assert run_router(device, seq, point)[0] == SPACE.id_of(SPACE.named("e8_h16_d2"))
    assert len(run_entry(device, "e8_h16_d2", seq, K)[1]) == K
    result = invoke(parity, out, "--run", world.run)
    assert result.exit_code == 0, (result.exception, result.output)


def test_some_routes_with_seen_items_excluded(world: World, tmp_path: Path) -> None:
    options = ("--routes", "e8_h8_d1,e16_h8_d2", "--seen", "exclude")
    out = exported(world.run, tmp_path / "some", *options)
    package = open_package(out)
    assert {route for row in package.golden for route in row.routes} <= {0, 5}
    assert all(not set(row.ids.tolist()) & set(row.input.tolist()) for row in package.golden)
    result = invoke(parity, out, "--run", world.run)
    assert result.exit_code == 0, (result.exception, result.output)


def test_replay_measures_every_route_for_budgets(world: World, tmp_path: Path) -> None:
    costs = tmp_path / "costs.json"
    result = invoke(replay, world.package, "--limit", 6, "--costs-out", costs)
    assert result.exit_code == 0, (result.exception, result.output)
    assert f"wrote {costs}" in result.stderr
    table, package = read_json(costs), open_package(world.package)
    validate(table, "costs_table", where=costs)
    assert list(table["routes"]) == [route.entry for route in SPACE]
    assert (table["calls"], table["package"]["sha256"]) == (50, package.sha256)
    config = TrainConfig(embedding=(8, 16), hidden=(8, 16), depth=(1, 2), costs=str(costs))
    spending = spending_of(config, 60)
    assert spending.routes.tolist() == list(table["routes"].values())
    assert (spending.unit, spending.router) == ("ms", table["router"])
    assert spending.full == table["routes"]["e16_h16_d2"]


def test_the_median_of_each_entry_is_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    package = open_package(world.package)
    real, calls = open_device(package), Counter()
    cost = {"router": 1_000_000} | {route.entry: (route.id + 2) * 1_000_000 for route in package.routes}

    def call(entry: str, seq: np.ndarray, point: int) -> Answer:
        calls[entry] += 1
        slow = 1000 if calls[entry] <= WARM_UPS + 10 else 1  # the warm-up and a few outliers
        return Answer(real.call(entry, seq, point).outputs, cost[entry] * slow)

    monkeypatch.setattr(timing, "open_device", lambda *_, **__: replace(real, call=call))
    queries = held_out(load_dataset(world.dataset), "test", limit=7)
    table = timing.costs_table(package, queries.inputs(slice(None), package.length))
    assert table["router"] == 1.0
    assert table["routes"] == {route.entry: route.id + 2.0 for route in package.routes}
    assert set(calls.values()) == {1 + WARM_UPS + timing.CALLS}


def test_a_table_of_some_routes_or_a_wrong_one_is_refused_by_name(world: World, tmp_path: Path) -> None:
    costs = tmp_path / "costs.json"
    config = TrainConfig(embedding=(8, 16), hidden=(8, 16), depth=(1, 2), costs=str(costs))
    with pytest.raises(CanetError, match=r"no such table[\s\S]*--costs-out FILE"):
        spending_of(config, 60)
    some = exported(world.run, tmp_path / "some", "--routes", "e8_h8_d1,e16_h16_d2", "--users", 0)
    error = invoke(replay, some, "--data", world.dataset, "--limit", 3, "--costs-out", costs).exception
    assert isinstance(error, UsageError) and "holds 2 of 8 routes" in str(error)
    assert "--routes all" in str(error) and not costs.exists()
    whole = ("--data", world.dataset, "--limit", 3, "--costs-out", costs)
    assert invoke(replay, world.package, *whole).exit_code == 0
    table = read_json(costs)
    write_json(
        costs, table | {"routes": {name: table["routes"][name] for name in ("e8_h8_d1", "e16_h16_d2")}}
    )
    with pytest.raises(CanetError, match=r"no cost of e8_h8_d2 \(missing: 6 of 8[\s\S]*--routes all"):
        spending_of(config, 60)
    write_json(costs, table | {"router": 0})
    with pytest.raises(CanetError, match=r"costs\.json: field \$\.router: 0"):
        spending_of(config, 60)
    write_json(costs, {"router": 1.0})
    with pytest.raises(CanetError, match="schema_version is None"):
        spending_of(config, 60)


def test_a_package_without_a_router_has_no_table_of_costs(world: World, tmp_path: Path) -> None:
    plain = exported(world.run, tmp_path / "plain", "--route", "e8_h8_d1")
    error = invoke(replay, plain, "--costs-out", tmp_path / "costs.json").exception
    assert "has no router" in str(error)
    assert not (tmp_path / "costs.json").exists()


def test_replay_reports_latency_and_accuracy(world: World) -> None:
    result = invoke(replay, world.package, "--run", world.run, "--json")
    assert result.exit_code == 0, (result.exception, result.output)
    report = json.loads(result.stdout)
    assert report["agreement"]["router"] > 0.9
