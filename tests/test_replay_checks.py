"""The checks find what is wrong, name it, and let nothing else fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from replay_toys import K, torch_device, toy_canet, toy_queries, write_package

from canet_export.checks import LIMITS, check_golden, check_routes, check_task, check_users
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.lists import Check
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import RuntimeFailure
from canet_mobile.replay.reference import overlap, ranks_in_lists, route_scores, routed_lists

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
