"""The written .tflite: every route and the router as PyTorch, numbers in their places, each stored once."""

from __future__ import annotations

import os
import sys
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_histories
from tflite_toys import ITEMS, LENGTH, Exported, K, canet_of, job_of, opened

from canet_export.checks import LIMITS
from canet_export.job import Job
from canet_export.targets import TARGETS
from canet_export.tflite.export import check_metadata, export
from canet_export.tflite.reading import read_signatures
from canet_export.tflite.stored import check_stored
from canet_export.tflite.support import (
    ENVIRONMENT_VARIABLE,
    install_support,
    read_metadata,
    support_status,
)
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.lists import compare_lists
from canet_mobile.replay.device import RuntimeFailure, run_entry, run_router
from canet_mobile.replay.reference import route_scores

for toolkit in ("litert_torch", "ai_edge_litert"):
    pytest.importorskip(toolkit)


@pytest.fixture(
    scope="module", params=["fp32", "int8", "tied", "plain", "wide", "int4", "tied int4", "routed fp16"]
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    job = job_of(request.param)
    result = export(job, folder)
    path = folder / result.model_file
    return Exported(job, result, path, opened(job, path, result))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One route, int8, with the router's own table."""
    folder = tmp_path_factory.mktemp("small")
    whole = job_of("int8")
    job = replace(whole, routes=whole.routes[:1])
    result = export(job, folder)
    path = folder / result.model_file
    return Exported(job, result, path, opened(job, path, result))


def test_every_route_is_pytorch_with_the_same_numbers(exported: Exported) -> None:
    job = exported.job
    limits = LIMITS[job.quantization]
    overlaps = []
    for seq in random_histories(5, ITEMS, LENGTH).numpy().astype(np.int32):  # one item, a full one, others
        for route in job.routes:
            full = route_scores(job.reference, seq[None], route, job.seen)[0]
            best = full.topk(K)
            scores, ids, _ = run_entry(exported.device, route.entry, seq, K)
            expected = best.values.numpy()
            found = compare_lists(
                expected,
                best.indices.numpy(),
                scores,
                ids,
                tolerance=limits.tolerance(expected),
                full=full.numpy(),
            )
            assert not found.differences, (route.entry, found.differences)
            assert job.seen == "keep" or not set(ids.tolist()) & set(seq.tolist())
            overlaps.append(len(set(ids[:10].tolist()) & set(best.indices[:10].tolist())) / 10)
    assert np.mean(overlaps) >= (limits.overlap or 0.99)


def test_the_router_is_pytorchs(exported: Exported) -> None:
    seqs = random_histories(80, ITEMS, LENGTH)
    answers = []
    for point in range(len(POINTS)):
        expected = exported.job.reference.route(seqs, point).tolist()
        found = [run_router(exported.device, seq, point)[0] for seq in seqs.numpy().astype(np.int32)]
        assert np.mean(np.equal(found, expected)) >= 0.99
        answers.append(tuple(found))
    if exported.job.canet.router is None:
        assert set(answers) == {(0,) * len(seqs)}
    else:
        assert len(set(answers)) == len(POINTS)


def test_compiled_models_take_the_routers_inputs_in_the_documented_order(exported: Exported) -> None:
    from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator, Options

    options = Options(hardware_accelerators=HardwareAccelerator.CPU)
    model = CompiledModel.from_file(str(exported.path), options=options)
    index = model.get_signature_index("router")
    inputs, outputs = model.create_input_buffers(index), model.create_output_buffers(index)
    for seq in random_histories(5, ITEMS, LENGTH).numpy().astype(np.int32):
        for point in range(len(POINTS)):
            for buffer, data in zip(inputs, (seq, np.array([point], np.int32)), strict=True):
                buffer.write(data)
            model.run_by_index(index, inputs, outputs)
            assert outputs[0].read(1, np.int32)[0] == run_router(exported.device, seq, point)[0]


def test_both_apis_of_litert_answer_alike(exported: Exported) -> None:
    compiled, interpreter = (
        exported.device,
        opened(exported.job, exported.path, exported.result, "Interpreter"),
    )
    assert (compiled.runtime.split()[-1], interpreter.runtime.split()[-1]) == ("CompiledModel", "Interpreter")
    for seq in random_histories(5, ITEMS, LENGTH).numpy().astype(np.int32):
        for entry in ("router", *(route.entry for route in exported.job.routes)):
            for one, other in zip(
                compiled.call(entry, seq, 1).outputs, interpreter.call(entry, seq, 1).outputs, strict=True
            ):
                assert (one.shape, one.dtype) == (other.shape, other.dtype)
                np.testing.assert_array_equal(one, other)


def test_the_first_subgraph_is_a_route(exported: Exported) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(exported.path.read_bytes(), 0)
    entries = {
        model.SignatureDefs(n).SubgraphIndex(): model.SignatureDefs(n).SignatureKey().decode()
        for n in range(model.SignatureDefsLength())
    }
    assert entries[0] == exported.job.routes[0].entry


def test_the_interpreter_delegates_what_stands_beside_a_constant_router(tmp_path: Path) -> None:
    """A plain SASRec in int8: without a delegate a call takes several times as long."""
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options
    from ai_edge_litert.interpreter import Interpreter

    canet = canet_of(RoutingSpace((64,), (64,), (4,)))
    result = export(Job(canet, quantize_model(canet), "int8", canet.space.routes, K), tmp_path)
    path, entry = str(tmp_path / result.model_file), canet.space.routes[0].entry
    seq = np.arange(1, LENGTH + 1, dtype=np.int32)[None]
    runner = Interpreter(model_path=path, num_threads=1).get_signature_runner(entry)
    cpu = CpuOptions(num_threads=1)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    model = CompiledModel.from_file(path, options=options)
    index = model.get_signature_index(entry)
    inputs, outputs = model.create_input_buffers(index), model.create_output_buffers(index)
    inputs[0].write(seq)

    def best(call: Callable[[], object]) -> float:
        call()
        return min(timeit.repeat(call, number=5, repeat=60))

    interpreter = best(lambda: runner(seq=seq))
    assert interpreter < 2 * best(lambda: model.run_by_index(index, inputs, outputs))


def test_a_point_that_does_not_exist_is_an_error(small: Exported) -> None:
    for point in (-1, len(POINTS)):
        with pytest.raises(RuntimeFailure, match="'router' failed"):
            run_router(small.device, np.ones(LENGTH, np.int32), point)


def test_altered_points_are_a_failure_that_names_them(small: Exported, tmp_path: Path) -> None:
    assert small.job.canet.router is not None
    data = small.job.canet.router.points.numpy().tobytes()
    raw = bytearray(small.path.read_bytes())
    assert raw.count(data) == 1
    raw[raw.find(data)] ^= 1  # the lowest bit of one offset
    (tmp_path / small.path.name).write_bytes(raw)
    (failure,) = check_stored(tmp_path, small.job).failures
    assert (failure.entry, failure.tensor) == ("router", "points")
    assert "at [0, 0]" in failure.expected


def test_the_file_is_an_ordinary_one_with_named_signatures(exported: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_path=str(exported.path)).get_signature_list()
    route = {"inputs": ["seq"], "outputs": ["ids", "scores"]}
    assert {name: {key: sorted(ends) for key, ends in each.items()} for name, each in found.items()} == {
        "router": {"inputs": ["point", "seq"], "outputs": ["route"]},
        **{each.entry: route for each in exported.job.routes},
    }


def test_numbers_are_read_back_bit_for_bit(exported: Exported) -> None:
    check = check_stored(exported.path.parent, exported.job)
    assert check.passed, check.failures
    assert check.cases > 10 * len(exported.job.routes)
    other = replace(exported.job, canet=shifted(exported.job.canet), integers=None)
    if exported.job.integers is not None:
        bits = 4 if exported.job.quantization == "int4" else 8
        other = replace(other, integers=quantize_model(other.canet, bits))
    names = {failure.tensor for failure in check_stored(exported.path.parent, other).failures}
    assert {"blocks.0.ffn1.weight", "blocks.0.norm1.bias", "positions"} <= names


def shifted(canet: Canet) -> Canet:
    """The same model, but for the first block, and the positions by their last bit."""
    import copy

    other = copy.deepcopy(canet)
    with torch.no_grad():
        block = other.supernet.blocks[0]
        block.ffn1_weight.mul_(0.9)  # type: ignore[union-attr, operator]
        block.norm1_bias.add_(1e-3)  # type: ignore[union-attr, operator]
        other.supernet.positions.copy_(
            torch.nextafter(other.supernet.positions, torch.full_like(other.supernet.positions, 9.0))
        )
    return other


def test_constants_are_stored_once(exported: Exported) -> None:
    sizes = exported.result.sizes
    parts = ("item_table", "classifier", "layers", "router", "graph")
    assert sum(getattr(sizes, f"{part}_bytes") for part in parts) == sizes.total_bytes
    assert sizes.graph_bytes > 0
    places = {
        constant.place
        for operations in read_signatures(exported.path).values()
        for operation in operations
        for constant in operation.constants.values()
        if constant.values.ndim == 2 and len(constant.values) == ITEMS + 1
    }
    tables = {
        (source.name, source.start)
        for entry in exported.job.routes
        for source in panel_sources(exported.job, entry.entry)
    }
    assert len(places) == len(tables)


def panel_sources(job: Job, entry: str) -> list:
    from canet_export.tflite.graphs import tflite_graphs

    graphs = tflite_graphs(job)
    tables = [*graphs[entry].table, *graphs[entry].classifier]  # type: ignore[misc]
    router = [*graphs["router"].table] if job.canet.router is not None else []  # type: ignore[misc]
    return [module.source for module in tables + router]


def test_a_flipped_bit_is_found_and_named(small: Exported, tmp_path: Path) -> None:
    raw = bytearray(small.path.read_bytes())
    stored = read_signatures(small.path)["e8_h16_d1"]
    matrix = next(
        o.constants[1] for o in stored if o.kind == "FULLY_CONNECTED" and o.constants[1].scale is not None
    )
    raw[matrix.place[0] + 5] ^= 1
    (tmp_path / small.path.name).write_bytes(raw)
    (failure,) = check_stored(tmp_path, small.job).failures
    assert (failure.entry, failure.tensor) == ("e8_h16_d1", "project.weight")
    assert "at [0, 5]" in failure.expected


def test_a_damaged_file_is_a_failure_not_a_traceback(small: Exported, tmp_path: Path) -> None:
    path = tmp_path / small.path.name
    raw = small.path.read_bytes()
    history = np.ones(LENGTH, np.int32)
    for damaged in (b"", b"not a model at all", raw[:200], raw[: len(raw) // 2], bytes(len(raw))):
        path.write_bytes(damaged)
        assert not check_stored(tmp_path, small.job).passed
        with pytest.raises(RuntimeFailure, match=r"canet\.tflite"):
            run_entry(opened(small.job, path, small.result), "e8_h16_d1", history, K)
    lost = replace(small.result, runtime={})
    with pytest.raises(RuntimeFailure, match=r"runtime: root\.router"):
        opened(small.job, small.path, lost)
    with pytest.raises(CanetError, match="e8_h16_d1"):
        small.device.load("e8_h16_d2")


def test_a_missing_toolkit_is_named(small: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(CanetError, match=r"pip install 'canet-mobile\[tflite\]'"):
        export(small.job, tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    assert opened(small.job, small.path, small.result).runtime.endswith("Interpreter")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(CanetError, match=r"pip install 'canet-mobile\[tflite\]'"):
        opened(small.job, small.path, small.result)
    assert not list(tmp_path.iterdir())


def test_int4_takes_whole_groups_of_columns(tmp_path: Path) -> None:
    canet = canet_of(RoutingSpace((64,), (48, 64), (1,)))
    with pytest.raises(CanetError, match="a scale for every 32 columns"):
        export(Job(canet, quantize_model(canet, 4), "int4", canet.space.routes[:1], K), tmp_path)


def test_every_preset_can_be_written() -> None:
    assert set(TARGETS["tflite"].quantizations) == set(LIMITS)


def test_without_tflite_support_the_metadata_is_said_to_be_unchecked(
    small: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    entries = ("router", "e8_h16_d1")
    assert check_metadata(small.path, small.job, entries).startswith("not read back")
    with pytest.raises(CanetError, match="doctor --install tflite-support"):
        read_metadata(small.path)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "no wheel" in (support_status().reason or "")


def test_tflite_support_reads_the_metadata(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ENVIRONMENT_VARIABLE not in os.environ:  # nothing is left in the user's cache
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "support"))
    try:
        install_support()
    except CanetError as error:
        pytest.skip(f"tflite-support cannot be installed here: {error}")
    found = read_metadata(small.path)
    assert found["metadata"]["name"] == "canet-mobile"
    by_name = {each["name"]: each for each in found["metadata"]["subgraph_metadata"]}
    assert set(by_name) == {"router", "e8_h16_d1"}
    inputs = [tensor["name"] for tensor in by_name["router"]["input_tensor_metadata"]]
    assert inputs == ["seq", "point"]
    outputs = by_name["e8_h16_d1"]["output_tensor_metadata"]
    assert [tensor["name"] for tensor in outputs] == ["scores", "ids"]
    assert outputs[1]["associated_files"][0]["type"] == "TENSOR_VALUE_LABELS"
    lines = found["associated_files"]["items.txt"].splitlines()
    assert (lines[0], lines[1], len(lines)) == ("[padding]", "item 1", ITEMS + 1)
    assert check_metadata(small.path, small.job, tuple(by_name)).startswith("read back by tflite-support")
    with pytest.raises(CanetError, match="reads 2 entries"):
        check_metadata(small.path, small.job, ("router",))
