"""Judged candidates: their NDCG@10 is that of ranking, doubt is an entropy, widths and depths add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_toys import SPACE, random_histories, toy_canet, toy_dataset

from canet_mobile.data.split import held_out
from canet_mobile.evaluate import scoring
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import rank_targets
from canet_mobile.model.space import RoutingSpace
from canet_mobile.routing import candidates as judging
from canet_mobile.routing.candidates import Judged, candidates, doubt, judge, seen_before

ITEMS = 40


def histories(n: int = 9, length: int = 6) -> torch.Tensor:
    return torch.randint(1, ITEMS + 1, (n, length), generator=torch.Generator().manual_seed(1))


def naive_entropy(scores: torch.Tensor, seen: list[int]) -> float:
    """Of a softmax over the items that may be shown, one number after the other."""
    shown = [float(scores[item]) for item in range(1, ITEMS + 1) if item not in seen]
    weights = np.exp(np.array(shown) - max(shown))
    p = weights / weights.sum()
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize("rows", [1 << 20, 3 * (ITEMS + 1)])
@pytest.mark.parametrize("with_seen", [False, True])
def test_doubt_is_the_entropy_over_what_may_be_shown(
    rows: int, with_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(judging.CHUNK_SCORES, "cpu", rows)
    net, seq = toy_canet(ITEMS).supernet, histories(40)  # 40 rows: three chunks of at least 16
    states = net.last_states(seq, SPACE.routes[3])
    found = doubt(net, states, seq if with_seen else None)
    with torch.no_grad():
        scores = net.scores(states).double()
    naive = [naive_entropy(scores[n], seq[n].tolist() if with_seen else []) for n in range(40)]
    assert found.dtype == torch.float32 and np.allclose(found.numpy(), naive, atol=1e-4)
    assert found.std() > 0.01
    assert doubt(net, states[:0]).shape == (0,)


@pytest.mark.parametrize("protocol", ["keep", "exclude"])
def test_judged_candidates_are_as_good_as_ranking_finds_them(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "JUDGED_ROWS", 16)
    monkeypatch.setattr(scoring, "SCORE_ROWS", 5)
    monkeypatch.setattr(scoring, "SCORE_BYTES", 1)  # several chunks to a batch
    net = toy_canet(ITEMS).supernet
    queries = held_out(toy_dataset(random_histories(50, ITEMS), ITEMS), "validation")
    judged = judge(net, queries, protocol)
    assert judged.routes == tuple(candidates(SPACE)) and judged.ndcg10.shape == (5, 50)
    for row, route in enumerate(judged.routes):
        ranks = rank_targets(net, queries, np.full(50, route)).under(protocol)
        assert np.allclose(judged.ndcg10[row], ndcg(ranks, 10), atol=1e-6)
        for user in (0, 17, 49):
            seen = queries.seen(np.array([user]))[1].tolist()
            inputs = torch.from_numpy(queries.inputs(np.array([user]), net.config.length)).long()
            with torch.no_grad():
                scores = net.scores(net.last_states(inputs, SPACE.routes[route]))[0].double()
            naive = naive_entropy(scores, seen if protocol == "exclude" else [])
            assert judged.entropy[row, user] == pytest.approx(naive, abs=1e-4)
    assert judged.ndcg10.any()


def test_candidates_are_the_smallest_route_and_those_of_the_widest_embedding() -> None:
    assert [SPACE.routes[n].entry for n in candidates(SPACE)] == [
        "e8_h8_d1", "e12_h8_d1", "e12_h8_d2", "e12_h16_d1", "e12_h16_d2",
    ]  # fmt: skip
    assert len(candidates(RoutingSpace())) == 13


def test_a_position_has_seen_itself_and_what_came_before() -> None:
    found = seen_before(torch.tensor([[0, 4, 2, 9]]))
    assert found.tolist() == [[[0, 0, 0, 0], [0, 4, 0, 0], [0, 4, 2, 0], [0, 4, 2, 9]]]
    assert found.dtype == torch.int64


def additive(widths: list[float], depths: list[float]) -> np.ndarray:
    """What the candidates of SPACE are worth when widths and depths add up, [5]."""
    return np.array([widths[0], *(w + d for w in widths[1:] for d in depths)])


def test_smoothing_keeps_what_adds_up_and_shares_out_the_rest() -> None:
    routes = tuple(candidates(SPACE))
    clean = additive([0.1, 0.2, 0.4], [0.0, 0.05])
    users = np.stack([clean, 2 * clean], 1)
    assert Judged(SPACE, routes, users, users).smoothed == pytest.approx(users)
    odd = users.copy()
    odd[4] += 0.08  # one of the four routes of two widths and two depths is lucky
    found = Judged(SPACE, routes, odd, odd).smoothed
    assert found[:, 0] == pytest.approx(users[:, 0] + [0, -0.02, 0.02, 0.02, 0.06])
    assert found.mean() == pytest.approx(odd.mean())
