"""Which integers a package gets: the router's say, and the bound of int4."""

from __future__ import annotations

import pytest
import torch
from conftest import random_canet
from replay_toys import toy_queries

from canet_export import accuracy
from canet_export.accuracy import Choice, choose_integers, measure_accuracy, require_accuracy
from canet_export.integers import quantize_model
from canet_export.job import Job
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
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
    assert best.agreement == max(float((m.route(seqs) == canet.route(seqs)).double().mean()) for m in tried)


def test_a_router_that_reads_its_own_table_gets_it_back_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    canet = sensitive_canet("own")
    monkeypatch.setattr(accuracy, "MIN_ROUTER_AGREEMENT", 1.0)
    found = choose_integers(canet, 8, QUERIES, "keep")
    seqs = torch.from_numpy(QUERIES.inputs(slice(None), 8)).long()
    plain = accuracy.dequantized(canet, quantize_model(canet, 8))
    if torch.equal(plain.route(seqs), canet.route(seqs)):
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


def test_the_manifests_accuracy_is_pytorchs_before_the_package_ran() -> None:
    canet = random_canet(items=60, length=8, space=SPACE)
    job = Job(canet, quantize_model(canet), "int8", SPACE.routes, 20)
    found = measure_accuracy(canet, job, QUERIES)
    assert found is not None
    assert (found["users"], found["split"], found["package_host"]) == (60, "validation", None)
    assert 0 <= found["pytorch_same_integers"] <= 1
    assert measure_accuracy(canet, Job(canet, None, "fp32", SPACE.routes, 5), QUERIES) is None
    exact = measure_accuracy(canet, Job(canet, None, "fp32", SPACE.routes, 20), QUERIES)
    assert exact is not None
    assert exact["pytorch_same_integers"] is None
    assert exact["router_agreement"] == 1.0
