"""The checks find what is wrong, name it, and let nothing else fail; replay measures what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_toys import K, torch_device, toy_canet, toy_queries, write_package

from canet_mobile.errors import CanetError, ParityError, UsageError
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.replay import parity as parity_module
from canet_mobile.replay import replay as replay_module
from canet_mobile.replay.checks import LIMITS, check_golden, check_routes, check_task, check_users
from canet_mobile.replay.compare import Check
from canet_mobile.replay.device import RuntimeFailure, open_device, recommend
from canet_mobile.replay.package import Package, open_package
from canet_mobile.replay.reference import overlap, ranks_in_lists, route_scores, routed_lists
from canet_mobile.schema import validate

CANET = toy_canet()
QUERIES = toy_queries()
STRUCTURAL, NUMERIC = LIMITS["fp32"], LIMITS["int8"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return open_package(write_package(tmp_path_factory.mktemp("toy") / "package", CANET))


def all_checks(package: Package, change: Any = None, limits: Any = STRUCTURAL) -> dict[str, Check]:
    device = torch_device(package, CANET, change)
    checks = [
        check_golden(device, package, limits),
        *check_routes(device, package, same=CANET, queries=QUERIES, limits=limits, rows_per_route=3),
        *check_users(device, package, reference=CANET, same=CANET, queries=QUERIES, limits=limits),
    ]
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.passed is False}


@pytest.mark.parametrize("limits", [STRUCTURAL, NUMERIC])
def test_a_faithful_package_passes_every_check(package: Package, limits: Any) -> None:
    checks = all_checks(package, None, limits)
    assert all(check.passed for check in checks.values())
    assert checks["router"].detail == "40 of 40 users routed alike at every operating point"
    expected = {"golden", limits.level, "router", "task"} | ({"overlap"} if limits is NUMERIC else set())
    assert set(checks) == expected
    assert (checks["golden"].cases, checks[limits.level].cases, checks["router"].cases) == (16, 24, 120)


def test_one_wrong_score_in_one_route_is_found_and_named(package: Package) -> None:
    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        if entry != "e16_h8_d2":
            return outputs
        scores = outputs[0].copy()
        scores[0, 3] += 0.01
        return scores, outputs[1]

    checks = all_checks(package, change)
    assert failed(checks) == {"golden", "structural"}
    for name in failed(checks):
        assert {failure.entry for failure in checks[name].failures} == {"e16_h8_d2"}
        assert {failure.tensor for failure in checks[name].failures} == {"scores[3]", "ids[3]"}
        assert all(failure.excess == pytest.approx(100, rel=0.1) for failure in checks[name].failures)
    assert checks["structural"].failures[0].case.endswith("newest item alone")  # type: ignore[union-attr]
    assert failed(all_checks(package, change, NUMERIC)) == set()


def test_a_fault_that_only_full_histories_show_is_found(package: Package) -> None:
    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        return (outputs[0] + 1, outputs[1]) if entry != "router" and seq[0] > 0 else outputs

    checks = all_checks(package, change)
    assert failed(checks) == {"golden", "structural"}
    assert len(checks["structural"].failures) >= 8


def test_a_shifted_list_fails_the_overlap_and_the_task(package: Package) -> None:
    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        return outputs if entry == "router" else (outputs[0], np.roll(outputs[1], 8, axis=1))

    checks = all_checks(package, change, NUMERIC)
    assert {"golden", "numeric", "overlap"} <= failed(checks)
    assert checks["overlap"].value == pytest.approx(0.2)
    assert checks["task"].passed is not True


def test_a_wrong_route_is_found_unless_it_ties(package: Package) -> None:
    seq = QUERIES.inputs(np.array([7]), 8)[0]
    inputs = torch.from_numpy(seq[None]).long()
    right = {f"route at {name}": int(CANET.route(inputs, point)[0]) for point, name in enumerate(POINTS)}

    def change(entry: str, asked: np.ndarray, outputs: tuple) -> tuple:
        return ((outputs[0] + 1) % 8,) if entry == "router" and (asked == seq).all() else outputs

    checks = all_checks(package, change)
    assert "router" in failed(checks)
    found = {f.tensor: (f.case, f.expected, f.found) for f in checks["router"].failures}
    assert found == {at: ("user 7", str(route), str((route + 1) % 8)) for at, route in right.items()}
    assert checks["router"].value == pytest.approx(39 / 40)
    assert "router" in failed(all_checks(package, change, NUMERIC))  # 39 / 40 < .995
    tied = toy_canet()
    with torch.no_grad():
        tied.router.head_weight.zero_()  # type: ignore[union-attr]
        tied.router.head_bias.zero_()  # type: ignore[union-attr]
        tied.router.points.zero_()  # type: ignore[union-attr]
    device = torch_device(package, tied, lambda entry, _, out: (np.array([3]),) if entry == "router" else out)
    router = check_users(device, package, reference=tied, same=tied, queries=QUERIES, limits=STRUCTURAL)[0]
    assert router.passed
    tied.router.points[2, 5] = 1e-3  # type: ignore[union-attr]
    router = check_users(device, package, reference=tied, same=tied, queries=QUERIES, limits=STRUCTURAL)[0]
    assert {failure.tensor for failure in router.failures} == {"route at best"}


def test_a_route_that_fails_to_run_is_a_failure_and_the_others_are_still_checked(package: Package) -> None:
    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        if entry == "e8_h8_d1":
            raise RuntimeFailure("the method 'e8_h8_d1' failed with error 0x12 (InvalidArgument)")
        return outputs

    checks = all_checks(package, change)
    assert {"golden", "structural"} <= failed(checks)
    assert {failure.entry for failure in checks["structural"].failures} == {"e8_h8_d1"}
    assert "0x12" in checks["structural"].failures[0].found
    assert checks["structural"].cases == 24


def test_the_task_decides_only_when_it_can(package: Package) -> None:
    seqs = QUERIES.inputs(slice(None), 8)
    right = routed_lists(CANET, seqs, K, "keep").ids
    targets = QUERIES.targets
    hits = np.flatnonzero((right[:, :10] == targets[:, None]).any(1))
    assert len(hits) >= 2

    def outcome(ids: np.ndarray) -> Check:
        return check_task(ids, seqs, CANET, QUERIES, package)

    assert outcome(right).passed is True
    one_lost = right.copy()
    one_lost[hits[0]] = -1
    undecided = outcome(one_lost)
    assert undecided.passed is None
    assert "too small" in undecided.detail
    assert "n = 40" in undecided.detail
    none = outcome(np.full_like(right, -1))
    assert none.passed is False
    assert none.value == pytest.approx(-1)


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
    (directory / "canet.pte").write_bytes(b"not A program")
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
    report = replay_module.replay(package, QUERIES, **options)
    data = {"name": "toy", "content_hash": "0" * 64, "split": "test", "users": 40, "of": 40}
    validate({**report, "data": data}, "replay", where="report")
    return report


def test_replay_measures_accuracy_agreement_and_routes(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    report = run_replay(package, monkeypatch, None, reference=CANET, progress=done.append)
    lists = routed_lists(CANET, QUERIES.inputs(slice(None), 8), K, "keep")
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

    report = run_replay(package, monkeypatch, change, reference=CANET)
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


def test_exclude_keeps_the_input_out_of_the_reference() -> None:
    seqs = QUERIES.inputs(slice(None), 8)
    route = CANET.space.largest
    keep, exclude = (route_scores(CANET, seqs, route, seen) for seen in ("keep", "exclude"))
    seen = torch.zeros_like(keep, dtype=torch.bool).scatter_(1, torch.from_numpy(seqs).long(), True)
    assert (exclude[seen] == -1e4).all()
    assert torch.equal(keep[~seen], exclude[~seen])


def test_ranks_and_overlap() -> None:
    ids = np.array([[3, 1, 2], [4, 5, 6]])
    assert ranks_in_lists(ids, np.array([2, 9])).tolist() == [2, np.iinfo(np.int64).max]
    assert overlap(ids, np.array([[1, 3, 9], [4, 5, 6]]), 2).tolist() == [1.0, 1.0]
    assert overlap(ids, np.array([[7, 8, 9], [6, 5, 9]]), 3).tolist() == [0.0, pytest.approx(2 / 3)]


def test_a_golden_row_fails_on_its_route_alone(package: Package) -> None:
    row = package.golden[3]
    asked: list[int] = []

    def change(entry: str, seq: np.ndarray, outputs: tuple) -> tuple:
        if entry != "router" or (seq != row.input).any():
            return outputs
        asked.append(len(asked))
        return ((outputs[0] + 1) % 8,) if asked[-1] == POINTS.index("best") else outputs

    check = check_golden(torch_device(package, CANET, change), package, STRUCTURAL)
    (failure,) = check.failures
    assert (failure.entry, failure.case, failure.tensor) == ("router", "golden.jsonl line 4", "route at best")
    assert (failure.expected, failure.found) == (str(row.routes[2]), str((row.routes[2] + 1) % 8))


@pytest.mark.parametrize("name", POINTS)
def test_one_wrong_operating_point_fails_the_router_by_name(package: Package, name: str) -> None:
    wrong, other = POINTS.index(name), (POINTS.index(name) + 1) % len(POINTS)
    device = torch_device(package, CANET, asked=lambda point: other if point == wrong else point)
    router, task = check_users(
        device, package, reference=CANET, same=CANET, queries=QUERIES, limits=STRUCTURAL
    )
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), package.length)).long()
    differ = CANET.route(seqs, wrong) != CANET.route(seqs, other)
    assert not router.passed
    assert router.value == pytest.approx(1 - float(differ.double().mean()))
    assert f"at {name}" in router.detail
    assert {failure.tensor for failure in router.failures} == {f"route at {name}"}
    assert len(router.failures) == int(differ.sum()) > 0
    assert task.passed is not False or wrong == BALANCED
    golden = check_golden(device, package, STRUCTURAL)
    assert {failure.tensor for failure in golden.failures} == {f"route at {name}"}
