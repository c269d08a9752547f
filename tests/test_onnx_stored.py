"""Numbers read back from .onnx and .ort: all of them, and whatever is not theirs is found and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_toys import Exported, exported, make_job, toy

from canet_export.onnx.export import MODEL_FILE, ORT_FILE
from canet_export.onnx.ort_format import read_initializers
from canet_export.onnx.stored import check_stored
from canet_mobile.model.space import Route, RoutingSpace

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

SPACE = RoutingSpace((8, 16), (8, 16), (1, 3))
WIDE = RoutingSpace((32, 64), (32, 64), (1, 3))
PRESETS = ("fp32", "fp16", "int8", "int4")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("int8"), make_job(toy(SPACE, table="own"), "int8"))


@pytest.mark.parametrize("quantization", PRESETS)
@pytest.mark.parametrize("kind", ["shared", "own", "tied", "plain", "one", "one width"])
def test_every_number_is_read_back(quantization: str, kind: str, tmp_path: Path) -> None:
    space = WIDE if quantization == "int4" else SPACE
    small, large = space.embedding
    canet = toy(space, table="own" if kind == "own" else "shared", tied=kind == "tied")
    routes = {
        "plain": [Route(large, small, 3)],
        "one": [Route(small, large, 1)],
        "one width": [Route(small, large, 1), Route(large, large, 3)],
    }.get(kind, list(space.routes))
    job = make_job(canet, quantization, routes, plain=kind == "plain")
    found = exported(tmp_path, job)
    check = check_stored(tmp_path, job)
    assert check.passed, check.failures
    files = 1 if quantization in ("fp16", "int4") else 2
    assert len(found.result.files) == (3 if files == 2 else 1)
    assert check.cases >= files * 12


def test_the_integers_stand_in_the_files_as_uint8(int8: Exported) -> None:
    """Independent of the checker: the first block's matrices, channel by channel."""
    integers = int8.job.integers
    assert integers is not None
    whole = integers.tensors["supernet.blocks.0.qkv_weight"].values.numpy()
    stored = onnx.load(int8.folder / MODEL_FILE).graph.initializer
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
    for found in (tensors, read_initializers(int8.folder / ORT_FILE)):
        stored = found["supernet.blocks.0.qkv_weight"]
        assert stored.dtype == np.uint8
        for part, row, column in ((0, 0, 0), (1, 5, 3), (2, 14, 15)):
            head, channel = row % 4, row // 4
            assert int(stored[column, part, head, channel]) - 128 == whole[part, row, column]
        table = integers.tensors["supernet.item_table"]
        assert np.array_equal(found["supernet.item_table"].astype(int) - 128, table.values.numpy())
        assert np.array_equal(found["supernet.item_table.scale"], table.scale.numpy())
        panels = [found[f"supernet.own_classifier.panel{start}"] for start in (0, 8)]
        joined = np.concatenate(panels).T.astype(int) - 128
        assert np.array_equal(joined, integers.tensors["supernet.own_classifier"].values.numpy())


@pytest.mark.parametrize("file", [MODEL_FILE, ORT_FILE])
@pytest.mark.parametrize(
    "name",
    [
        "supernet.item_table", "supernet.item_table.scale", "supernet.own_classifier.panel8",
        "supernet.blocks.2.qkv_weight", "supernet.blocks.0.ffn2_weight", "supernet.blocks.1.vectors",
        "supernet.blocks.1.heads", "supernet.positions", "router.item_table", "router.block.qkv_weight.kv",
        "router.head_bias", "router.points", "sizes_of_route", "future",
    ],
)  # fmt: skip
def test_a_flipped_bit_is_found_and_named(int8: Exported, file: str, name: str, tmp_path: Path) -> None:
    for other in (MODEL_FILE, ORT_FILE):
        (tmp_path / other).write_bytes((int8.folder / other).read_bytes())
    blob = bytearray((tmp_path / file).read_bytes())
    data = read_initializers(int8.folder / ORT_FILE)[name].tobytes()
    place = blob.find(data)
    assert place >= 0
    blob[place + len(data) // 2] ^= 1
    (tmp_path / file).write_bytes(blob)
    check = check_stored(tmp_path, int8.job)
    assert check.passed is False
    assert len(check.failures) == 1
    part = {"heads": "qkv", "vectors": ""}.get(name.rpartition(".")[2], name.partition(".panel")[0])
    assert check.failures[0].tensor.startswith(f"{file}: ")
    assert part.removesuffix(".kv").removesuffix(".scale") in check.failures[0].tensor


@pytest.mark.parametrize(
    "name", ["supernet.item_table", "supernet.own_classifier.panel0", "supernet.blocks.1.ffn1_weight.scale"]
)
def test_a_flipped_bit_among_four_is_found(name: str, tmp_path: Path) -> None:
    found = exported(tmp_path, make_job(toy(WIDE), "int4"))
    path = tmp_path / MODEL_FILE
    data = next(t.raw_data for t in onnx.load(path).graph.initializer if t.name == name)
    blob = bytearray(path.read_bytes())
    blob[blob.find(data) + len(data) // 3] ^= 16
    path.write_bytes(blob)
    (failure,) = check_stored(tmp_path, found.job).failures
    assert name.partition(".panel")[0].removesuffix(".scale") in failure.tensor


def test_other_nodes_are_found(int8: Exported, tmp_path: Path) -> None:
    (tmp_path / ORT_FILE).write_bytes((int8.folder / ORT_FILE).read_bytes())
    model = onnx.load(int8.folder / MODEL_FILE)
    node = next(node for node in model.graph.node if node.op_type == "Greater")
    node.op_type = "Less"
    onnx.save(model, tmp_path / MODEL_FILE)
    (failure,) = check_stored(tmp_path, int8.job).failures
    assert failure.tensor == "canet.onnx: graph"


def test_points_in_another_order_and_an_input_with_a_default_are_found(
    int8: Exported, tmp_path: Path
) -> None:
    (tmp_path / ORT_FILE).write_bytes((int8.folder / ORT_FILE).read_bytes())
    points = int8.job.reference.router.points.numpy()  # type: ignore[union-attr]
    for name, array in (("router.points", points[[2, 1, 0]]), ("point", np.array([0], np.int32))):
        model = onnx.load(int8.folder / MODEL_FILE)
        others = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*others, onnx.numpy_helper.from_array(array, name)])
        onnx.save(model, tmp_path / MODEL_FILE)
        (failure,) = check_stored(tmp_path, int8.job).failures
        assert failure.tensor == f"canet.onnx: {name}"


def test_a_missing_or_foreign_tensor_is_found(int8: Exported, tmp_path: Path) -> None:
    (tmp_path / ORT_FILE).write_bytes((int8.folder / ORT_FILE).read_bytes())
    model = onnx.load(int8.folder / MODEL_FILE)
    for tensor in model.graph.initializer:
        if tensor.name == "supernet.in_bias":
            tensor.name = "supernet.out_of_place"
    onnx.save(model, tmp_path / MODEL_FILE)
    named = {failure.tensor for failure in check_stored(tmp_path, int8.job).failures}
    assert {"canet.onnx: supernet.in_bias", "canet.onnx: supernet.out_of_place"} <= named


def test_unreadable_files_are_failures_not_tracebacks(int8: Exported, tmp_path: Path) -> None:
    for name in (MODEL_FILE, ORT_FILE):
        blob = (int8.folder / name).read_bytes()
        for broken in (b"", b"nothing", blob[: len(blob) // 2]):
            for other in (MODEL_FILE, ORT_FILE):
                (tmp_path / other).write_bytes((int8.folder / other).read_bytes())
            (tmp_path / name).write_bytes(broken)
            check = check_stored(tmp_path, int8.job)
            assert check.passed is False
            assert any(failure.tensor.startswith(name) for failure in check.failures)


def test_the_wrong_models_numbers_are_found(int8: Exported) -> None:
    other = make_job(toy(SPACE, table="own", seed=4), "int8")
    check = check_stored(int8.folder, other)
    assert check.passed is False
    assert len(check.failures) > 50
