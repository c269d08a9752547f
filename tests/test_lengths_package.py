"""Packages at several lengths: weights stored once, the same answers at each, and a check that can fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from replay_toys import ITEMS, LENGTH, toy_canet, toy_dataset, toy_run

from canet_export.length_checks import BITS, check_lengths
from canet_export.targets import TARGETS
from canet_mobile.cli.export import export
from canet_mobile.cli.parity import parity
from canet_mobile.model.points import BALANCED
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import ROUTER, Answer, Device, Sequences, open_device, recommend

LENGTHS = (3, 5, LENGTH)
TOOLKITS = {"executorch": "executorch", "coreml": "coremltools", "tflite": "ai_edge_litert", "onnx": "onnx"}
CASES = [
    (name, quantization)
    for name, target in TARGETS.items()
    if target.lengths
    for quantization in ("fp32", "int8")
]


def made(root: Path, target: str, quantization: str, lengths: str = "3,5") -> Package:
    pytest.importorskip(TOOLKITS[target])
    dataset = toy_dataset(root / "dataset")
    run = toy_run(root / "run", dataset, toy_canet())
    arguments = [str(run.directory), "--target", target, "--quantize", quantization, "--lengths", lengths]
    result = CliRunner().invoke(
        export, [*arguments, "--data", str(dataset.directory), "--out", str(root / "p")]
    )
    assert result.exit_code == 0, result.output
    return open_package(root / "p")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return made(tmp_path_factory.mktemp("lengths"), *request.param)


def histories() -> list[Sequences]:
    """One of every size."""
    items = np.random.default_rng(0).integers(1, ITEMS + 1, LENGTH).astype(np.int32)
    return [
        np.where(np.arange(LENGTH) < LENGTH - size, 0, items).astype(np.int32)
        for size in range(1, LENGTH + 1)
    ]


def test_a_call_takes_the_shortest_length_and_answers_as_the_longest(package: Package) -> None:
    device = open_device(package)
    assert package.lengths == LENGTHS == device.lengths and device.exact is not None
    bits = (package.manifest.target, package.quantization) in BITS
    for seq in histories():
        found = recommend(device, package, seq)
        long = device.exact(ROUTER, LENGTH, seq, BALANCED).outputs[0]
        assert found.route == int(long.reshape(-1)[0])
        scores, ids = device.exact(package.route(found.route).entry, LENGTH, seq, BALANCED).outputs
        if bits:
            assert np.array_equal(found.scores, scores.reshape(-1)) and np.array_equal(
                found.ids, ids.reshape(-1)
            )
        else:
            np.testing.assert_allclose(found.scores, scores.reshape(-1), atol=0.05 * np.abs(scores).max())


def test_every_length_is_compared_and_asked_by_golden_rows(package: Package) -> None:
    check = check_lengths(open_device(package), package)
    assert check.passed, check
    sizes = {(row.entry, int((row.input > 0).sum())) for row in package.golden}
    for route in package.routes:
        held = {size for entry, size in sizes if entry == route.entry}
        assert all(any(low < size <= high for size in held) for low, high in ((0, 3), (3, 5), (5, LENGTH)))


@pytest.mark.parametrize("fault", ["other scores", "one too few", "another router"])
def test_a_fault_at_one_length_is_found(package: Package, fault: str) -> None:
    device = open_device(package)
    whole = device.exact
    assert whole is not None

    def exact(entry: str, length: int, seq: Sequences, point: int) -> Answer:
        if length == 5 and fault == "other scores" and entry != ROUTER:
            answer = whole(entry, length, seq, point)
            return Answer((answer.outputs[0] * 1.5 + 1, answer.outputs[1]), answer.nanoseconds)
        if length == 5 and fault == "one too few":
            seq = np.where(np.arange(LENGTH) == LENGTH - 5, 0, seq).astype(np.int32)
        if length == 5 and fault == "another router" and entry == ROUTER:
            answer = whole(entry, length, seq, point)
            return Answer((answer.outputs[0] + 1,), answer.nanoseconds)
        return whole(entry, length, seq, point)

    spoilt: Device = replace(device, exact=exact)
    check = check_lengths(spoilt, package)
    assert not check.passed and check.failures and "5" in str(check.failures[0])


def test_parity_reports_the_lengths(package: Package) -> None:
    root = package.source.parent
    options = ["--run", str(root / "run"), "--data", str(root / "dataset"), "--users", "10"]
    result = CliRunner().invoke(parity, [str(package.source), *options])
    assert result.exit_code == 0 and "lengths     ok" in result.output, result.output


def test_weights_are_stored_once_for_all_lengths(package: Package, tmp_path: Path) -> None:
    alone = made(tmp_path, package.manifest.target, package.quantization, str(LENGTH))
    ours, other = package.manifest.sizes, alone.manifest.sizes
    assert (ours.item_table_bytes, ours.classifier_bytes) == (other.item_table_bytes, other.classifier_bytes)
    assert ours.layers_bytes <= 1.1 * other.layers_bytes + 20_000


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if not target.lengths])
def test_other_targets_are_written_at_the_longest_alone(target: str, tmp_path: Path) -> None:
    assert made(tmp_path, target, "fp32").lengths == (LENGTH,)
