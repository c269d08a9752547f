"""Reading the numbers back: bit for bit, whatever bit is flipped, and as coremltools' reader reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coreml_toys import SPACE, Made, make, toy

from canet_export.coreml.expected import Expectations
from canet_export.coreml.export import MODEL_FILE
from canet_export.coreml.mlpackage import MODEL, WEIGHTS
from canet_export.coreml.sizes import blob_offsets, uses
from canet_export.coreml.stored import check_stored, found_constants
from canet_mobile.replay.mil.model import MilModel, open_mlpackage, tensor_type

FLIPS = 25  # constants of each package that get a wrong bit


@pytest.fixture(scope="module", params=["int8", "int4", "fp16", "fp32", "int8 ios17"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    quantization, _, system = request.param.partition(" ")
    folder = tmp_path_factory.mktemp("stored")
    options = {"seen": "exclude", "minimum_os": system or None}
    return make(folder, toy(table="own" if quantization == "int4" else "shared"), quantization, **options)


def all_blobs(model: MilModel) -> dict[int, Any]:
    """Every constant of weight.bin that a function computes with: offset -> one operation that holds it."""
    found = {}
    for name in model.functions:
        for _, _, source in uses(model.block(name)):
            found.update(dict.fromkeys(blob_offsets(source), source))
    return found


def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """A file with one bit changed, for the length of a ``with``."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    yield
    path.write_bytes(before)


def test_every_number_is_read_back(made: Made) -> None:
    check = check_stored(made.folder, made.job)
    assert check.passed, check.failures
    assert check.cases > 50


def test_no_bit_of_a_constant_can_flip_unseen(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    entry = "e64_h64_d2" if made.job.minimum_os else "router"
    model = open_mlpackage(folder / made.place(entry)[0].name)
    blobs = {offset: model.blob(offset) for offset in all_blobs(model)}
    used = sum(-(-(blob.data - blob.start + blob.size) // 64) * 64 for blob in blobs.values())
    assert 0 <= used + 64 - len(model.weights) < 64  # nothing else stands in the file
    rng = np.random.default_rng(0)
    for blob in list(blobs.values())[:: max(1, len(blobs) // FLIPS)]:
        place = blob.data + int(rng.integers(blob.size))
        for _ in flipped(model.path / WEIGHTS, place, int(rng.integers(8))):
            check = check_stored(folder, made.job)
            # A shared constant is named for each function that takes it for something else.
            assert len({failure.tensor for failure in check.failures}) == 1, (blob, check.failures)
            assert "expected" in str(check.failures[0])
    assert check_stored(folder, made.job).passed


def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    made = make(tmp_path, toy(), "int8")
    model = made.model()
    expected = list(Expectations(made.job, shared=True).of("e64_h64_d2"))
    found = list(found_constants(model, "e64_h64_d2"))
    seen = {}
    for constant, one in zip(expected, found, strict=True):
        for offset in blob_offsets(one.source):
            is_scale = model.blob(offset).dtype == "fp16" and len(blob_offsets(one.source)) > 1
            seen[constant.name, is_scale] = offset
    for (name, is_scale), part in (
        (("supernet.item_table", False), "integers"),
        (("supernet.item_table", True), "scale"),
        (("supernet.own_classifier", False), "integers"),
        (("supernet.blocks.1.qkv_weight", True), "scale"),
        (("supernet.blocks.1.ffn2_bias", False), ""),
        (("supernet.blocks.0.norm1_weight", False), ""),
        (("supernet.positions", False), ""),
        (("supernet.classifier_bias", False), ""),
    ):
        blob = model.blob(seen[name, is_scale])
        for _ in flipped(model.path / WEIGHTS, blob.data + blob.size - 1, 3):
            failure, *others = check_stored(made.folder, made.job).failures
            assert {other.tensor for other in others} <= {failure.tensor}
            assert failure.tensor == name + (f": {part}" if part else "")
            assert " at [" in failure.expected
            assert "(1 of " in failure.found


def test_altered_points_are_named(made: Made, tmp_path: Path) -> None:
    """The offsets of one operating point, and two points exchanged."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    model = open_mlpackage(folder / made.place("router")[0].name)
    expected = list(Expectations(made.job, shared=not made.job.minimum_os).of("router"))
    found = list(found_constants(model, made.place("router")[1]))
    (at,) = (n for n, constant in enumerate(expected) if constant.name == "router.points")
    blob = model.blob(*blob_offsets(found[at].source))
    points = made.job.reference.router.points.numpy()  # type: ignore[union-attr]
    whole = (model.path / WEIGHTS).read_bytes()
    assert whole[blob.data : blob.data + blob.size] == points.tobytes()
    cheaper = points.copy()
    cheaper[2, -1] += 0.5
    for changed, differ in ((cheaper, 1), (points[[1, 0, 2]], 2 * points.shape[1])):
        spoiled = whole[: blob.data] + changed.tobytes() + whole[blob.data + blob.size :]
        (model.path / WEIGHTS).write_bytes(spoiled)
        (failure,) = check_stored(folder, made.job).failures
        assert (failure.entry, failure.tensor) == ("router", "router.points")
        assert f"({differ} of {points.size} differ)" in failure.found


def test_numbers_in_the_protobuf_are_read_too(tmp_path: Path) -> None:
    made = make(tmp_path, toy(), "int8")
    path = made.folder / MODEL_FILE / MODEL
    spec = made.model().spec
    block = next(iter(spec.mlProgram.functions["router"].block_specializations.values()))
    scale = next(op for op in block.operations if op.type == "const" and _number(op) == 7.5)
    scale.attributes["val"].immediateValue.tensor.floats.values[0] = 7.25
    path.write_bytes(spec.SerializeToString())
    (failure,) = check_stored(made.folder, made.job).failures
    assert (failure.entry, failure.tensor) == ("router", "router.table_scale")
    assert failure.expected.startswith("7.5")


def _number(operation: Any) -> float | None:
    values = operation.attributes["val"].immediateValue.tensor.floats.values
    return values[0] if len(values) == 1 else None


def test_another_models_package_is_told_apart(tmp_path: Path) -> None:
    made = make(tmp_path, toy(), "int8")
    other = make(tmp_path / "other", toy(table="own"), "int8")
    check = check_stored(made.folder, other.job)
    assert not check.passed
    assert any(failure.entry == "router" for failure in check.failures)
    missing = check_stored(tmp_path / "nothing", made.job)
    assert not missing.passed
    assert len(missing.failures) == 1 + len(SPACE)
    assert "no readable .mlpackage" in missing.failures[0].found


def test_coremltools_own_reader_reads_the_same(made: Made) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    model = made.model("e64_h64_d2")
    reader = storage._BlobStorageReader(str(model.path / WEIGHTS))
    read = {
        "int8": reader.read_int8_data,
        "int4": reader.read_int4_data,
        "fp16": reader.read_fp16_data,
        "fp32": reader.read_float_data,
    }
    kinds = set()
    for offset, source in all_blobs(model).items():
        value = _value(source, offset)
        dtype, shape = tensor_type(value.type)
        ours = model.value(value)
        theirs = np.asarray(read[dtype](offset))
        if dtype == "fp16":
            theirs = theirs.astype(np.uint16).view(np.float16)
        assert theirs.astype(ours.dtype).reshape(shape).tobytes() == ours.tobytes()
        kinds.add(dtype)
    wanted = {"int8": {"int8", "fp16"}, "int4": {"int4", "int8", "fp16", "fp32"}}
    assert kinds <= wanted.get(made.job.quantization, {"fp16", "fp32"}) | {"fp32"}


def _value(source: Any, offset: int) -> Any:
    values = [*source.attributes.values()]
    values += [binding.value for argument in source.inputs.values() for binding in argument.arguments]
    return next(v for v in values if v.blobFileValue.offset == offset)
