"""Which integers a package gets: the router's say, and the bound of int4."""

from __future__ import annotations

import pytest
import torch
from conftest import random_canet
from replay_toys import toy_queries

from canet_export import accuracy
from canet_export.accuracy import Choice, choose_integers, require_accuracy
from canet_export.job import Job
from canet_export.measured import measure
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.model.space import RoutingSpace

SPACE = RoutingSpace((32, 64), (32,), (1, 2))
QUERIES = toy_queries(60)


def sensitive_canet(table: str) -> Canet:
    """A model whose router turns on tiny differences between item embeddings."""
    canet = random_canet(items=60, length=8, space=SPACE, table=table)
    assert canet.router is not None
    with torch.no_grad():
        canet.router.head_bias.zero_()
        canet.router.head_weight.mul_(50)
        canet.supernet.item_table.mul_(5)
        if table == "own":
            canet.router.item_table.mul_(5)
    return canet


def choice(agreement: float = 1.0, before: float = 0.2, after: float = 0.2) -> Choice:
    canet = random_canet(items=60, length=8, space=SPACE)
    return Choice(quantize_model(canet), frozenset(), agreement, before, after)


def test_the_first_choice_that_the_router_agrees_with_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    canet = sensitive_canet("own")
    found = choose_integers(canet, 4, QUERIES, "keep")
    assert 0 <= found.agreement <= 1
    monkeypatch.setattr(accuracy, "MIN_ROUTER_AGREEMENT", 0.0)
    assert choose_integers(canet, 4, QUERIES, "keep").higher == frozenset()
    monkeypatch.setattr(accuracy, "MIN_ROUTER_AGREEMENT", 2.0)  # never reached: the one that agrees best
    best = choose_integers(canet, 4, QUERIES, "keep")
    tried = [
        accuracy.dequantized(canet, quantize_model(canet, 4, higher=higher)) for higher in accuracy.HIGHER[4]
    ]
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), 8)).long()
    worst = [
        min(float((m.route(seqs, p) == canet.route(seqs, p)).double().mean()) for p in range(len(POINTS)))
        for m in tried
    ]
    assert best.agreement == max(worst)


def test_a_router_that_reads_its_own_table_gets_it_back_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    canet = sensitive_canet("own")
    monkeypatch.setattr(accuracy, "MIN_ROUTER_AGREEMENT", 1.0)
    found = choose_integers(canet, 8, QUERIES, "keep")
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), 8)).long()
    plain = accuracy.dequantized(canet, quantize_model(canet, 8))
    if all(torch.equal(plain.route(seqs, p), canet.route(seqs, p)) for p in range(len(POINTS))):
        assert found.higher == frozenset()
    else:
        assert found.higher == {"router.item_table"}
    assert found.agreement == 1.0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (choice(after=0.19), r"NDCG@10 falls by 5.0% \(0.2000 to 0.1900\), the bound is 1%"),
        (choice(agreement=0.98), r"the router agrees with fp32 on 98.0%, the bound is 99.5%"),
        (choice(agreement=0.98, after=0.1), r"falls by 50.0%.*; the router agrees"),
    ],
)
def test_int4_beyond_its_bound_says_drop_bound_and_way_out(found: Choice, said: str) -> None:
    with pytest.raises(CanetError, match=said) as error:
        require_accuracy(found, "int4", 4000)
    assert "4,000 validation users" in str(error.value)
    assert "--allow-accuracy-drop" in str(error.value)


def test_within_the_bound_nothing_is_said() -> None:
    require_accuracy(choice(after=0.1985, agreement=0.996), "int4", 10)
    require_accuracy(choice(before=0.0, after=0.0), "int4", 10)


def test_one_disagreeing_point_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    canet = sensitive_canet("shared")
    assert canet.router is not None
    with torch.no_grad():  # balanced and best give everybody one route, whatever the history
        canet.router.points[1:] = 0.0
        canet.router.points[1:, 2] = 1e4
    monkeypatch.setattr(accuracy, "MIN_ROUTER_AGREEMENT", 0.0)
    found = choose_integers(canet, 4, QUERIES, "keep")
    same = accuracy.dequantized(canet, found.integers)
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), 8)).long()
    agreements = [float((same.route(seqs, p) == canet.route(seqs, p)).double().mean()) for p in range(3)]
    assert agreements[1:] == [1.0, 1.0]
    assert found.agreement == agreements[0] < 1


def test_the_manifests_figures_are_pytorchs_before_the_package_ran() -> None:
    canet = random_canet(items=60, length=8, space=SPACE)
    job = Job(canet, quantize_model(canet), "int8", SPACE.routes, 20)
    measured = measure(canet, job, QUERIES)
    assert measured is not None
    found, points = measured.accuracy(), measured.operating_points()
    assert (found["users"], found["split"], found["package_host"]) == (60, "validation", None)
    assert 0 <= found["pytorch_same_integers"] <= 1
    assert [(row["id"], row["name"]) for row in points] == list(enumerate(POINTS))
    assert found["pytorch_fp32"] == points[1]["pytorch_fp32"]
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), 8)).long()
    for row in points:
        routes = job.reference.route(seqs, row["id"]).tolist()
        entries = [SPACE.routes[route].entry for route in routes]
        assert row["shares"] == {entry: pytest.approx(entries.count(entry) / 60) for entry in set(entries)}
        assert row["executed_mflops"] > 0
        assert row["package_host"] is None
    assert len({str(row["shares"]) for row in points}) == 3
    assert measure(canet, Job(canet, None, "fp32", SPACE.routes, 5), QUERIES) is None
    exact = measure(canet, Job(canet, None, "fp32", SPACE.routes, 20), QUERIES)
    assert exact is not None
    assert {row["pytorch_same_integers"] for row in exact.operating_points()} == {None}
    assert {row["router_agreement"] for row in exact.operating_points()} == {1.0}


def test_a_model_without_a_router_has_figures_and_no_points() -> None:
    space = RoutingSpace((32,), (32,), (2,))
    canet = Canet(random_canet(items=60, length=8, space=space).supernet, None).eval()
    measured = measure(canet, Job(canet, None, "fp32", space.routes, 20), QUERIES)
    assert measured is not None
    assert [figures.point for figures in measured.points] == [BALANCED]
    assert measured.points[0].shares == {"e32_h32_d2": 1.0}
