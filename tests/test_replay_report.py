"""The reports of parity and replay: what they measure, what they name first, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_toys import PROGRAM, K, torch_device, toy_canet, toy_queries, write_package

from canet_export import parity as parity_module
from canet_mobile.errors import CanetError, ParityError, UsageError
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay import replay as replay_module
from canet_mobile.replay.device import RuntimeFailure, open_device, recommend
from canet_mobile.replay.reference import package_lists, ranks_in_lists, routed_lists
from canet_mobile.schema import validate

CANET = toy_canet()
QUERIES = toy_queries()
SEQS = QUERIES.inputs(slice(None), 8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return open_package(write_package(tmp_path_factory.mktemp("toy") / "package", CANET))


def run_parity(package: Package, monkeypatch: pytest.MonkeyPatch, change: Any) -> dict[str, Any]:
    device = torch_device(package, CANET, change)
    monkeypatch.setattr(parity_module, "open_device", lambda _: device)
    report = parity_module.parity(package)
    validate(report, "parity", where="report")
    return report


def test_the_golden_rows_alone_make_a_report_and_the_worst_failure_comes_first(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run_parity(package, monkeypatch, None)
    assert (report["passed"], report["checkpoint"], [c["name"] for c in report["checks"]]) == (
        True,
        False,
        ["golden"],
    )
    parity_module.require(report, package.source)

    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        error = {"e8_h8_d1": 0.1, "e16_h8_d1": 10.0}.get(entry, 0.0)
        return (outputs[0] + np.float32(error), *outputs[1:]) if entry != "router" else outputs

    report = run_parity(package, monkeypatch, change)
    assert not report["passed"]
    assert len(report["failures"]) == 8
    assert {row["entry"] for row in report["failures"][:4]} == {"e16_h8_d1"}
    with pytest.raises(ParityError) as error:
        parity_module.require(report, package.source)
    text = str(error.value)
    assert error.value.exit_code == 3
    assert text.index("e16_h8_d1") < text.index("e8_h8_d1, golden")
    assert "golden.jsonl line" in text
    assert "8 difference(s)" in text


def test_a_program_that_does_not_load_is_a_parity_failure(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Package) -> None:
        raise RuntimeFailure("the program does not load with error 0x23 (InvalidProgram)")

    monkeypatch.setattr(parity_module, "open_device", broken)
    report = parity_module.parity(package)
    validate(report, "parity", where="report")
    with pytest.raises(ParityError, match="0x23"):
        parity_module.require(report, package.source)


def test_a_damaged_package_is_a_parity_failure_and_no_package_is_not(tmp_path: Path) -> None:
    directory = write_package(tmp_path / "package", CANET)
    (directory / "canet.pte").write_bytes(PROGRAM.replace(b"a", b"A"))
    with pytest.raises(ParityError, match=r"SHA-256"):
        parity_module.open_for_parity(directory)
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CanetError) as error:
            parity_module.open_for_parity(path)
        assert error.value.exit_code == 1


def run_replay(
    package: Package, monkeypatch: pytest.MonkeyPatch, change: Any, **options: Any
) -> dict[str, Any]:
    device = torch_device(package, CANET, change)
    monkeypatch.setattr(replay_module, "open_device", lambda *_, **__: device)
    report = replay_module.replay(package, SEQS, QUERIES.targets, **options)
    data = {"name": "toy", "content_hash": "0" * 64, "split": "test", "users": 40, "of": 40}
    validate({**report, "data": data}, "replay", where="report")
    return report


def test_replay_measures_accuracy_agreement_and_routes(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    report = run_replay(
        package, monkeypatch, None, reference=partial(package_lists, CANET, package), progress=done.append
    )
    lists = routed_lists(CANET, SEQS, K, "keep")
    ranks = ranks_in_lists(lists.ids, QUERIES.targets)
    hit = ranks < 10
    ndcg = np.where(hit, 1 / np.log2(np.where(hit, ranks, 0) + 2.0), 0).mean()
    assert report["metrics"]["package"] == {
        "ndcg@10": pytest.approx(ndcg),
        "recall@10": pytest.approx(hit.mean()),
    }
    assert ndcg > 0
    assert report["metrics"]["pytorch"] == pytest.approx(report["metrics"]["package"])
    assert report["agreement"] == {"router": 1.0, "top10_overlap": 1.0}
    histogram = np.bincount(lists.routes, minlength=8)
    assert [row["users"] for row in report["routes"]] == histogram.tolist()
    assert len(np.flatnonzero(histogram)) > 1
    assert report["costs"]["paper_mflops"] == pytest.approx(0.1 + (1 + lists.routes).mean())
    assert report["latency_ms"]["total"] == {"p50": 2.0, "p90": 2.0, "p99": 2.0}
    assert sum(done) == 40
    for row in report["routes"]:
        assert (row["latency_ms"] is None) == (row["users"] == 0) == (row["load_ms"] is None)


def test_replay_sees_disagreement_and_works_without_a_checkpoint(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        return (np.array([0]),) if entry == "router" else (outputs[0], np.roll(outputs[1], 5, axis=1))

    report = run_replay(package, monkeypatch, change, reference=partial(package_lists, CANET, package))
    assert report["routes"][0]["users"] == 40
    assert report["routes"][0]["pytorch_users"] < 40
    assert report["agreement"]["router"] == report["routes"][0]["pytorch_users"] / 40
    assert report["agreement"]["top10_overlap"] < 0.9
    assert report["metrics"]["package"] != report["metrics"]["pytorch"]
    report = run_replay(package, monkeypatch, None)
    assert report["metrics"]["pytorch"] is None
    assert report["agreement"] is None


def test_a_route_the_package_does_not_hold_is_named(tmp_path: Path) -> None:
    directory = write_package(tmp_path / "package", CANET)
    opened = open_package(directory)
    smaller = replace(opened, routes=opened.routes[:1])
    device = torch_device(opened, CANET, lambda entry, _, out: (np.array([5]),) if entry == "router" else out)
    with pytest.raises(CanetError, match="chose route 5"):
        recommend(device, smaller, QUERIES.inputs(np.array([0]), 8)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry, _, out: (out[0].astype(np.int32),) if entry == "router" else out, "int32"),
        (lambda entry, _, out: out if entry == "router" else out[::-1], "returned int64"),
        (lambda entry, _, out: out if entry == "router" else (out[0][:, :5], out[1][:, :5]), r"\[1, 5\]"),
    ],
)
def test_outputs_of_another_shape_or_type_are_refused(
    package: Package, change: Callable[..., Any], said: str
) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        recommend(torch_device(package, CANET, change), package, QUERIES.inputs(np.array([0]), 8)[0])


@pytest.mark.parametrize("device", ["arm64", "android", "ios"])
def test_devices_to_come_are_refused_rather_than_replaced(package: Package, device: str) -> None:
    with pytest.raises(UsageError, match="not built yet"):
        open_device(package, device)


def test_an_unknown_device_suggests_the_nearest(package: Package) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'android'"):
        open_device(package, "andriod")
