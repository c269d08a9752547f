"""The written packages: routes and router as PyTorch, constants once, ids beyond 65,535, both systems."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_histories

pytest.importorskip("coremltools")

from coreml_toys import ITEMS, LENGTH, SPACE, Made, make, toy

from canet_export.coreml.export import MODEL_FILE, ROUTES_KEY, export, write_package
from canet_export.coreml.sizes import blob_offsets, package_bytes, uses
from canet_export.coreml.toolkit import toolkit
from canet_export.graph import restricted
from canet_export.job import Job
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.replay.mil.interpreter import Loader
from canet_mobile.replay.mil.model import MilError, open_mlpackage

NARROW = RoutingSpace((8, 16), (8, 16), (1, 3))
CASES: dict[str, Callable[[], tuple[Any, str, dict[str, Any]]]] = {
    "int8": lambda: (toy(), "int8", {}),
    "int4": lambda: (toy(table="own"), "int4", {}),
    "int4 seen, narrower router": lambda: (toy(router_width=16), "int4", {"seen": "exclude"}),
    "fp16 own table": lambda: (toy(table="own", router_width=20), "fp16", {"seen": "exclude"}),
    "fp32": lambda: (toy(space=NARROW, router_width=8), "fp32", {"seen": "exclude"}),
    "int8 router of two panels": lambda: (toy(space=NARROW, router_width=12), "int8", {}),
    "int8 tied, other edges": lambda: (
        toy(space=RoutingSpace((16, 64), (32, 64), (2,)), tied=True, router_width=16), "int8", {}
    ),
    "fp16 tied": lambda: (toy(tied=True), "fp16", {}),
    "int8 plain": lambda: (
        toy(space=RoutingSpace((32,), (32,), (2,)), table=None, in_projection=False), "int8", {}
    ),
    "int8 ios17": lambda: (toy(), "int8", {"minimum_os": "ios17", "seen": "exclude"}),
    "fp16 ios17 own": lambda: (toy(table="own"), "fp16", {"minimum_os": "ios17"}),
    "fp32 ios17 tied": lambda: (toy(tied=True), "fp32", {"minimum_os": "ios17"}),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CASES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    canet, quantization, options = CASES[request.param]()
    return make(tmp_path_factory.mktemp("made"), canet, quantization, **options)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("int8"), toy(), "int8")


def test_every_route_is_pytorch_with_the_same_numbers(made: Made) -> None:
    for seq in random_histories(4, ITEMS, LENGTH).split(1):  # one item, a full history, two between
        for route in made.job.routes:
            made.require_alike(route.entry, seq)


def test_the_router_is_pytorchs_at_every_point(made: Made) -> None:
    answers = []
    for seq in random_histories(40, ITEMS, LENGTH, seed=1).split(1):
        found = [made.run("router", seq, point)["route"] for point in range(len(POINTS))]
        assert {(route.dtype.name, route.shape) for route in found} == {("int32", (1,))}
        answers.append([int(route[0]) for route in found])
        assert answers[-1] == [int(made.job.reference.route(seq, point)) for point in range(len(POINTS))]
    assert set(made.programs["router"].inputs) == {"seq", "point"}
    if made.job.canet.router is None:
        assert not np.any(answers)
    else:
        assert len({tuple(column) for column in zip(*answers, strict=True)}) == len(POINTS)


@pytest.mark.parametrize("point", [-1, len(POINTS)])
def test_there_are_no_other_points(int8: Made, point: int) -> None:
    with pytest.raises(MilError, match="router: the operation gather 'offsets'"):
        int8.run("router", random_histories(1, ITEMS, LENGTH), point)


def test_the_router_must_be_told_its_point(int8: Made) -> None:
    program = Loader(int8.model()).load("router")
    seq = np.ones((1, LENGTH), np.int32)
    with pytest.raises(MilError, match=r"router: the input point is not int32 \[1\]"):
        program(seq=seq)
    with pytest.raises(MilError, match=r"router: the input point is not int32 \[1\]"):
        program(seq=seq, point=np.array([1], np.int64))


def test_every_file_is_listed_and_counted(made: Made) -> None:
    present = {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()}
    assert set(made.result.files) == present
    assert made.result.index_dtype == "int32"
    sizes = made.result.sizes
    assert sizes.total_bytes == sum((made.folder / name).stat().st_size for name in present)
    parts = ("item_table", "classifier", "layers", "router", "graph")
    assert sum(getattr(sizes, f"{part}_bytes") for part in parts) == sizes.total_bytes
    assert all(getattr(sizes, f"{part}_bytes") >= 0 for part in parts)


def test_the_full_model_alone_is_what_it_takes_when_written(int8: Made, tmp_path: Path) -> None:
    entry = SPACE.largest.entry
    write_package(int8.job, toolkit(), tmp_path / "alone.mlpackage", [entry], multifunction=True)
    written = package_bytes(tmp_path / "alone.mlpackage")
    assert int8.result.sizes.full_model_alone_bytes == pytest.approx(written, rel=0.01)
    assert int8.result.sizes.separate_files_bytes > 2 * int8.result.sizes.total_bytes  # type: ignore[operator]


def test_the_same_model_makes_the_same_bytes(int8: Made, tmp_path: Path) -> None:
    again = make(tmp_path / "again", toy(), "int8")
    for name in int8.result.files:
        assert (again.folder / name).read_bytes() == (int8.folder / name).read_bytes(), name


def test_the_package_tells_an_app_what_is_in_it(int8: Made) -> None:
    spec = int8.model().spec
    entries = ["router", *(route.entry for route in SPACE)]
    assert spec.specificationVersion == 9
    assert spec.description.defaultFunctionName == "router"
    assert [function.name for function in spec.description.functions] == entries
    table = json.loads(spec.description.metadata.userDefined[ROUTES_KEY])
    assert table["routes"] == [{"id": n, "name": route.entry} for n, route in enumerate(SPACE)]
    assert (table["length"], table["k"], table["seen"]) == (LENGTH, int8.job.k, "keep")
    assert table["points"] == ["saver", "balanced", "best"]
    for function in spec.description.functions:
        given = {f.name: list(f.type.multiArrayType.shape) for f in function.input}
        names = [f.name for f in function.output]
        if function.name == "router":
            assert (given, names) == ({"seq": [1, LENGTH], "point": [1]}, ["route"])
        else:
            assert (given, names) == ({"seq": [1, LENGTH]}, ["scores", "ids"])
    import coremltools

    model = coremltools.models.MLModel(
        str(int8.folder / MODEL_FILE), function_name="e64_h64_d2", skip_model_load=True
    )
    assert ROUTES_KEY in model.user_defined_metadata


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp16", "fp32"])
@pytest.mark.parametrize("tied", [False, True])
def test_constants_are_stored_once(quantization: str, tied: bool, tmp_path: Path) -> None:
    made = make(tmp_path, toy(tied=tied), quantization)
    model, rows = made.model(), ITEMS + 1
    offsets = {
        offset
        for name in model.functions
        for _, _, source in uses(model.block(name))
        for offset in blob_offsets(source)
    }
    contents = [model.weights[b.data : b.data + b.size].tobytes() for b in map(model.blob, offsets)]
    large = [content for content in contents if len(content) >= rows]
    assert len(large) == len(set(large))
    row = {"int8": 64 + 2, "int4": 32 + 4, "fp16": 128, "fp32": 256}[quantization]  # numbers and scales, once
    sizes = made.result.sizes
    assert rows * row <= sizes.item_table_bytes < rows * row + 1000
    biases = 2 * rows * (4 if quantization == "fp32" else 2)  # and the zeros of the further panels
    assert sizes.classifier_bytes < biases + 600 + (0 if tied else rows * row + 1000)


def test_more_items_than_16_bits_count(tmp_path: Path) -> None:
    items = 70_000
    canet = toy(items=items, space=RoutingSpace((8,), (8,), (1,)), router_width=8)
    with torch.no_grad():
        canet.supernet.classifier_bias[-40:] += 5  # the best are the last
    made = make(tmp_path, canet, "int8")
    histories = random_histories(3, items, LENGTH)
    for seq in torch.where(histories > 0, items + 1 - histories % 1000, 0).split(1):
        made.require_alike("e8_h8_d1", seq)
        assert made.run("e8_h8_d1", seq)["ids"].min() > 65_535
        assert int(made.run("router", seq)["route"][0]) == int(made.job.reference.route(seq))
    assert b"uint16" not in (made.folder / MODEL_FILE / "Data/com.apple.CoreML/model.mlmodel").read_bytes()


def test_some_routes_only(tmp_path: Path) -> None:
    routes = SPACE.routes[1:2]
    canet = restricted(toy(), [1])
    made = make(tmp_path, canet, "int8", routes=routes)
    assert set(made.model().functions) == {"router", routes[0].entry}
    for seq in random_histories(5, ITEMS, LENGTH).split(1):
        for point in range(len(POINTS)):
            assert made.run("router", seq, point)["route"].tolist() == [1]
    assert made.result.sizes.full_model_alone_bytes > 0  # type: ignore[operator]


def test_ios17_has_a_package_per_entry(tmp_path: Path) -> None:
    made = make(tmp_path, toy(), "int8", minimum_os="ios17")
    entries = ["router", *(route.entry for route in SPACE)]
    assert made.result.interface == {
        "style": "files", "files": {entry: f"{entry}.mlpackage" for entry in entries}
    }  # fmt: skip
    assert made.result.parts == {f"{entry}.mlpackage": (entry,) for entry in entries}
    assert made.result.model_file == "router.mlpackage"
    assert made.result.runtime["minimum_os_option"] == "ios17"
    for entry in entries:
        spec = open_mlpackage(made.place(entry)[0]).spec
        assert spec.specificationVersion == 8
        assert list(spec.mlProgram.functions) == ["main"]
        inputs = ["seq", "point"] if entry == "router" else ["seq"]
        assert [f.name for f in spec.description.input] == inputs
        text = spec.SerializeToString()
        assert b"blockwise_shift_scale" not in text
        assert b"CoreML7" in text


def test_errors_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="iOS 17 has no integers of 4 bits"):
        make(tmp_path / "a", toy(), "int4", minimum_os="ios17")
    with pytest.raises(UsageError, match="groups of 32 columns; the space has the width 48"):
        make(tmp_path / "b", toy(space=RoutingSpace((48, 64), (64,), (1,))), "int4")
    canet = toy(space=RoutingSpace((8,), (8,), (1,)), router_width=8)
    job = Job(canet, None, "fp32", canet.space.routes, 3)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(CanetError, match="needs coremltools") as caught:
        export(job, tmp_path)
    assert "pip install 'canet-mobile[coreml]'" in str(caught.value)
    assert not list(tmp_path.rglob("*.mlpackage"))
