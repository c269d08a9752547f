"""The reference interpreter: as coremltools folds the same file, and strict about what it does not know."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_histories

pytest.importorskip("coremltools")

from coreml_oracle import loaded, oracle
from coreml_toys import ITEMS, LENGTH, Made, inputs, make, toy

from canet_export.coreml.export import MODEL_FILE
from canet_export.coreml.mlpackage import MANIFEST, MODEL, WEIGHTS
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.replay.mil.interpreter import Loader, rounded
from canet_mobile.replay.mil.model import MilError, open_mlpackage
from canet_mobile.replay.mil.operators import OPERATORS, reduce_argmax

ENTRY = "e64_h64_d2"
ULP = 2**-10  # of fp16, relative: two ways to add up may round the last bit apart, more than once


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("int8"), toy(), "int8", seen="exclude")


@pytest.mark.parametrize(
    ("quantization", "options"),
    [
        ("int8", {"seen": "exclude"}),
        ("int4", {}),
        ("fp16", {"minimum_os": "ios17"}),
        ("fp32", {}),
        ("int8", {"minimum_os": "ios17"}),
    ],
)
def test_coremltools_folds_the_file_to_the_same(
    quantization: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made = make(tmp_path, toy(), quantization, **options)
    programs: dict[Path, Any] = {}
    for entry in ("router", "e32_h32_d1", ENTRY):
        path, function = made.place(entry)
        programs[path] = programs.get(path) or loaded(path)
        points = range(len(POINTS)) if entry == "router" else [BALANCED]
        for seq, point in itertools.product(random_histories(3, ITEMS, LENGTH).split(1), points):
            theirs = oracle(programs[path], function, inputs(entry, seq, point))
            ours = made.run(entry, seq, point)
            assert {n: (v.dtype, v.shape) for n, v in ours.items()} == {
                n: (v.dtype, v.shape) for n, v in theirs.items()
            }
            if entry == "router":
                assert ours["route"] == theirs["route"]
                continue
            tolerance = 1e-5 if quantization == "fp32" else 4 * ULP * float(np.abs(ours["scores"]).max())
            assert np.abs(ours["scores"] - theirs["scores"]).max() <= tolerance
            for item, score in zip(theirs["ids"][0], theirs["scores"][0], strict=True):
                if item not in ours["ids"]:  # only where it ties with the last
                    assert abs(score - ours["scores"][0, -1]) <= tolerance


@pytest.mark.parametrize("system", [None, "ios17"])
def test_a_router_without_a_choice_takes_the_same_inputs(system: str | None, tmp_path: Path) -> None:
    made = make(tmp_path, toy(table=None, space=one_route()), "int8", minimum_os=system)
    path, function = made.place("router")
    program = loaded(path)
    assert set(program.functions[function].inputs) == {"seq", "point"}
    for seq, point in itertools.product(random_histories(2, ITEMS, LENGTH).split(1), range(len(POINTS))):
        theirs = oracle(program, function, inputs("router", seq, point))["route"]
        assert theirs.tolist() == made.run("router", seq, point)["route"].tolist() == [0]


def test_rounding_is_fp16s_and_can_be_left_out(int8: Made) -> None:
    third = np.array([1 / 3, 70000.0], np.float32)
    assert rounded(third, "fp16").tolist() == [float(np.float16(1 / 3)), float("inf")]
    assert rounded(third, "fp32") is third
    model = int8.model()
    exact, faithful = (Loader(model, rounds=rounds).load(ENTRY) for rounds in (False, True))
    seq = random_histories(2, ITEMS, LENGTH)[1:].int().numpy()
    scores = faithful(seq=seq)["scores"]
    assert np.array_equal(scores.astype(np.float16).astype(np.float32), scores)
    assert not np.array_equal(exact(seq=seq)["scores"], scores)


def test_what_an_operator_only_moves_needs_no_rounding(int8: Made) -> None:
    for entry in ("router", ENTRY):
        program = Loader(int8.model()).load(entry)
        assert {step.kind for step in program.steps if step.moves} >= {"gather", "reshape", "slice_by_index"}
        all_rounded = replace(program, steps=tuple(replace(step, moves=False) for step in program.steps))
        for seq in random_histories(4, ITEMS, LENGTH).split(1):
            given = inputs(entry, seq)
            found, expected = program(**given), all_rounded(**given)
            assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_the_lowest_route_wins_a_tie() -> None:
    x = np.array([[0.0, 2.0, 2.0, 1.0]], np.float32)
    assert reduce_argmax(x, 1, False, "int32").tolist() == [1]
    assert reduce_argmax(x, 1, True, "int32").tolist() == [[1]]


def test_every_operator_of_the_table_is_in_use(int8: Made, tmp_path: Path) -> None:
    emitted = set()
    for made in (int8, make(tmp_path / "b", toy(table=None, space=one_route()), "int8", minimum_os="ios17")):
        for entry in ("router", *(route.entry for route in made.job.routes)):
            model, function = made.model(entry), made.place(entry)[1]
            emitted |= {operation.type for operation in model.block(function).operations}
    assert emitted - {"const"} == set(OPERATORS)


def one_route() -> Any:
    from canet_mobile.model.space import RoutingSpace

    return RoutingSpace((32,), (32,), (2,))


def edited(made: Made, folder: Path, change: Callable[[Any], None]) -> Loader:
    """A copy of a package with its first operation-block of ENTRY changed."""
    shutil.copytree(made.folder, folder)
    model = open_mlpackage(folder / MODEL_FILE)
    change(next(iter(model.spec.mlProgram.functions[ENTRY].block_specializations.values())))
    (folder / MODEL_FILE / MODEL).write_bytes(model.spec.SerializeToString())
    return Loader(open_mlpackage(folder / MODEL_FILE))


def first(block: Any, kind: str) -> Any:
    return next(operation for operation in block.operations if operation.type == kind)


def unknown_operator(block: Any) -> None:
    first(block, "gelu").type = "erf"


def wrong_shape(block: Any) -> None:
    first(block, "matmul").outputs[0].type.tensorType.dimensions[1].constant.size = 7


def wrong_type(block: Any) -> None:
    first(block, "softmax").outputs[0].type.tensorType.dataType = 11


def unknown_input(block: Any) -> None:
    first(block, "softmax").inputs["temperature"].arguments.add().name = "x"


def missing_input(block: Any) -> None:
    del first(block, "linear").inputs["bias"]


def loose_end(block: Any) -> None:
    first(block, "softmax").inputs["x"].arguments[0].name = "nowhere"


def mixed_types(block: Any) -> None:
    add = first(block, "cast")
    add.inputs["dtype"].arguments[0].name = first_string(block, "fp32")
    add.outputs[0].type.tensorType.dataType = 11


def first_string(block: Any, text: str) -> str:
    for operation in block.operations:
        if operation.type == "const" and operation.attributes["val"].immediateValue.tensor.strings.values:
            made = type(operation)()
            made.CopyFrom(operation)
            made.outputs[0].name = "added"
            made.attributes["val"].immediateValue.tensor.strings.values[0] = text
            block.operations.insert(0, made)
            return "added"
    raise AssertionError


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            unknown_operator,
            r"e64_h64_d2: the operation erf '.*': this interpreter does not know the operator erf",
        ),
        (wrong_shape, r"the operation matmul .* is declared \[1, 7, "),
        (wrong_type, "the operation softmax .*it returns fp16, declared is fp32"),
        (unknown_input, "does not know its input 'temperature'"),
        (missing_input, "its input 'bias' is missing"),
        (loose_end, "its input 'nowhere' is not there"),
        (mixed_types, "its inputs are of the types fp16, fp32"),
    ],
)
def test_what_is_not_as_declared_is_refused(
    int8: Made, tmp_path: Path, change: Callable[[Any], None], text: str
) -> None:
    loader = edited(int8, tmp_path / "copy", change)
    with pytest.raises(MilError, match=text) as caught:
        loader.load(ENTRY)(seq=np.ones((1, LENGTH), np.int32))
    assert str(tmp_path) in str(caught.value)


def test_inputs_are_checked(int8: Made) -> None:
    program = Loader(int8.model()).load(ENTRY)
    for wrong in (np.ones((1, LENGTH), np.int64), np.ones((2, LENGTH), np.int32)):
        with pytest.raises(MilError, match=r"the input seq is not int32 \[1, 10\]"):
            program(seq=wrong)
    with pytest.raises(MilError, match=r"the operation gather"):
        program(seq=np.full((1, LENGTH), ITEMS + 5, np.int32))
    with pytest.raises(MilError, match="holds no function 'e1_h1_d1'"):
        Loader(int8.model()).load("e1_h1_d1")


def test_damaged_files_are_errors_that_name_them(int8: Made, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(int8.folder, folder)
    path = folder / MODEL_FILE
    weights, model = (path / WEIGHTS).read_bytes(), (path / MODEL).read_bytes()

    (path / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(MilError, match=r"weight\.bin (ends before|holds no whole constant)"):
        Loader(open_mlpackage(path)).load(ENTRY)
    (path / WEIGHTS).write_bytes(weights[:64] + struct.pack("<I", 1) + weights[68:])
    with pytest.raises(MilError, match="holds no whole constant at 64"):
        [Loader(open_mlpackage(path)).load(name) for name in open_mlpackage(path).functions]
    (path / WEIGHTS).write_bytes(weights)
    (path / MODEL).write_bytes(model[: len(model) // 2])
    with pytest.raises(MilError, match=r"its model\.mlmodel is damaged"):
        open_mlpackage(path)
    (path / MODEL).write_bytes(b"")
    with pytest.raises(MilError, match="not an mlProgram"):
        open_mlpackage(path)
    (path / MANIFEST).write_text("{}", encoding="utf-8")
    with pytest.raises(MilError, match=r"is no readable \.mlpackage"):
        open_mlpackage(path)


@pytest.mark.parametrize("name", ["model", "weights"])
@pytest.mark.parametrize(
    "path", ["../../secret", "/dev/zero", "/dev", "com.apple.CoreML/../../../secret", "out", "loop"]
)
def test_a_path_that_leaves_the_mlpackage_is_refused(
    int8: Made, tmp_path: Path, name: str, path: str
) -> None:
    folder = Path(shutil.copytree(int8.folder / MODEL_FILE, tmp_path / MODEL_FILE))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "weight.bin").write_bytes(b"secret")
    (folder / "Data" / "out").symlink_to(tmp_path / "secret")
    (folder / "Data" / "loop").symlink_to("/dev")
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    root = manifest["rootModelIdentifier"]
    entries = manifest["itemInfoEntries"]
    chosen = next(one for key, one in entries.items() if (key == root) == (name == "model"))
    chosen["path"] = path
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(MilError, match=r"no plain file inside its Data folder"):
        open_mlpackage(folder)
