"""Expected gains: exact expectations, seen items, and what one actual target says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import SPACE, random_histories, toy_canet, toy_dataset

from canet_mobile.data.split import held_out
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import rank_in_scores, rank_targets
from canet_mobile.model.space import RoutingSpace
from canet_mobile.train import gains
from canet_mobile.train.gains import candidates, expected_ndcg, judge, seen_before

ITEMS = 40


def states_of(net, seq: torch.Tensor, *routes: int) -> list[torch.Tensor]:
    return [net.last_states(seq, SPACE.routes[route]) for route in routes]


def histories(n: int = 9, length: int = 6) -> torch.Tensor:
    return torch.randint(1, ITEMS + 1, (n, length), generator=torch.Generator().manual_seed(1))


def naive(net, states: list[torch.Tensor], seen: torch.Tensor | None) -> np.ndarray:
    """Every item in turn is the next one; [routes, n]."""
    found = np.zeros((len(states), len(states[0])))
    for n in range(len(states[0])):
        scores = [net.scores(state[n]).detach().double().numpy() for state in states]
        for one in scores:
            one[0] = -np.inf
            if seen is not None:
                one[[int(item) for item in seen[n] if item]] = -np.inf
        p = [np.exp(one - one.max()) / np.exp(one - one.max()).sum() for one in scores]
        for route, one in enumerate(scores):
            listed = np.argsort(-one, kind="stable")[:10].tolist()
            for item in range(1, ITEMS + 1):
                believed = sum(q[item] for q in p) / len(p)
                if item in listed:
                    found[route, n] += believed / np.log2(listed.index(item) + 2)
    return found


@pytest.mark.parametrize("rows", [1 << 20, 3 * (ITEMS + 1)])
@pytest.mark.parametrize("with_seen", [False, True])
def test_expected_ndcg_is_the_mean_over_every_next_item(
    rows: int, with_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gains.CHUNK_SCORES, "cpu", rows)
    net, seq = toy_canet(ITEMS).supernet, histories(40)  # 40 rows: three chunks of at least 16
    states = states_of(net, seq, 0, 3, 7)
    seen = seq if with_seen else None
    expected, entropy, actual = expected_ndcg(net, states, seen)
    assert np.allclose(expected.numpy(), naive(net, states, seen), atol=1e-5)
    assert expected.std() > 0.01 and not actual.any()
    if not with_seen:
        p = net.scores(states[1])[:, 1:].double().softmax(-1)
        assert torch.allclose(entropy[1].double(), -(p * p.log()).sum(-1), atol=1e-4)


def test_identical_lists_gain_exactly_nothing_however_unsure_the_routes_are() -> None:
    net, seq = toy_canet(ITEMS).supernet, histories()
    with torch.no_grad():
        net.own_classifier.zero_()  # scores are the bias alone, so every route lists the same items
        net.classifier_bias[1:] = torch.randn(ITEMS, generator=torch.Generator().manual_seed(0)) / 10
    expected, entropy, _ = expected_ndcg(net, states_of(net, seq, 0, 7))
    assert torch.equal(expected[0], expected[1]) and expected.min() > 0
    assert entropy.min() > 0.9 * np.log(ITEMS), "the routes are as unsure as can be"


def test_seen_items_are_neither_listed_nor_believed() -> None:
    net = toy_canet(ITEMS).supernet
    seq = histories(5)
    seen = torch.arange(1, ITEMS - 4).expand(5, -1)  # all but five items
    expected, _, actual = expected_ndcg(net, states_of(net, seq, 0), seen, torch.full((5,), 3))
    places = 1 / np.log2(np.arange(5) + 2)
    assert not actual.any()
    # All belief lies on the five items of the list, so their places' worth bounds the expectation.
    assert (expected < places[0] + 1e-6).all() and (expected > places[-1]).all()


@pytest.mark.parametrize("with_seen", [False, True])
def test_the_actual_part_is_ndcg_of_the_rank_that_scoring_finds(with_seen: bool) -> None:
    net, seq = toy_canet(ITEMS).supernet, histories(30)
    targets = torch.randint(1, ITEMS + 1, (30,), generator=torch.Generator().manual_seed(2))
    states = states_of(net, seq, 0, 7)
    _, _, actual = expected_ndcg(net, states, seq if with_seen else None, targets)
    rows, columns = np.unique(
        np.stack([np.repeat(np.arange(30), 6), seq.numpy().ravel()], 1), axis=0
    ).T.copy()
    for route, state in enumerate(states):
        with torch.no_grad():
            scores = net.scores(state)
        ranks = rank_in_scores(scores, targets, (torch.from_numpy(rows), torch.from_numpy(columns)))
        assert np.allclose(actual[route].numpy(), ndcg(ranks[with_seen].numpy(), 10), atol=1e-6)
        assert actual[route].any()


@pytest.mark.parametrize("protocol", ["keep", "exclude"])
def test_judged_candidates_are_as_good_as_ranking_finds_them(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gains, "JUDGED_ROWS", 16)
    net = toy_canet(ITEMS).supernet
    queries = held_out(toy_dataset(random_histories(50, ITEMS), ITEMS), "validation")
    judged = judge(net, queries, protocol)
    assert judged.routes == tuple(candidates(SPACE)) and judged.actual.shape == (5, 50)
    for row, route in enumerate(judged.routes):
        ranks = rank_targets(net, queries, np.full(50, route)).under(protocol)
        assert np.allclose(judged.actual[row], ndcg(ranks, 10), atol=1e-6)
    assert judged.actual.any() and judged.expected.min() > 0 and judged.entropy.min() > 0


def test_candidates_are_the_smallest_route_and_those_of_the_widest_embedding() -> None:
    assert [SPACE.routes[n].entry for n in candidates(SPACE)] == [
        "e8_h8_d1", "e12_h8_d1", "e12_h8_d2", "e12_h16_d1", "e12_h16_d2",
    ]  # fmt: skip
    assert len(candidates(RoutingSpace())) == 13


def test_a_position_has_seen_itself_and_what_came_before() -> None:
    found = seen_before(torch.tensor([[0, 4, 2, 9]]))
    assert found.tolist() == [[[0, 0, 0, 0], [0, 4, 0, 0], [0, 4, 2, 0], [0, 4, 2, 9]]]
    assert found.dtype == torch.int64
