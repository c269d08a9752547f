"""Ranks without sorting: against a full sort, under both protocols, however the rows are batched."""

import numpy as np
import pytest
import torch
from evaluation_toys import random_histories, toy_canet, toy_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.data.split import HeldOut, held_out
from canet_mobile.evaluate import scoring
from canet_mobile.evaluate.metrics import MISS, ndcg, recall, standard_error, summary

ITEMS = 40


def brute_force(scores: np.ndarray, target: int, seen: set[int]) -> tuple[int, int]:
    """Ranks by a full sort, ties by the lowest id: (keep, exclude)."""
    order = sorted(range(1, len(scores)), key=lambda item: (-scores[item], item))
    shown = [item for item in order if item not in seen]
    return order.index(target), shown.index(target) if target in shown else MISS


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rank_in_scores_is_a_full_sort(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 12))
    users = data.draw(st.integers(1, 5))
    # Few distinct values: ties everywhere.
    scores = np.array(
        data.draw(st.lists(st.integers(-2, 2), min_size=users * (items + 1), max_size=users * (items + 1)))
    )
    scores = scores.reshape(users, items + 1).astype(np.float32)
    ids = st.integers(1, items)
    targets = data.draw(st.lists(ids, min_size=users, max_size=users))
    seen = [data.draw(st.sets(ids)) for _ in range(users)]
    pairs = [(row, item) for row, found in enumerate(seen) for item in sorted(found)]
    rows, columns = (torch.tensor([pair[n] for pair in pairs], dtype=torch.int64) for n in (0, 1))
    found = scoring.rank_in_scores(torch.from_numpy(scores.copy()), torch.tensor(targets), (rows, columns))
    expected = [brute_force(scores[n], targets[n], seen[n]) for n in range(users)]
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected


@pytest.fixture(scope="module")
def queries() -> HeldOut:
    return held_out(toy_dataset(random_histories(90, ITEMS), ITEMS), "test")


@pytest.fixture(scope="module")
def canet():
    return toy_canet(ITEMS)


def test_model_ranks_are_a_full_sort_over_the_whole_history(queries, canet) -> None:
    route = canet.space.routes[5]
    found = scoring.rank_targets(canet.supernet, queries, np.full(len(queries), 5))
    repeats = 0
    for n in range(len(queries)):
        history = queries.items[queries.starts[n] : queries.ends[n]]
        seq = torch.from_numpy(queries.inputs(np.array([n]), 6))
        with torch.no_grad():
            scores = canet.supernet.scores(canet.supernet.sliced(seq, route)[0, -1]).numpy()
        target = int(queries.targets[n])
        assert (found.keep[n], found.exclude[n]) == brute_force(scores, target, set(history.tolist()))
        repeats += target in history
    assert repeats > 0
    assert (found.exclude == MISS).sum() == repeats


def test_ranks_do_not_depend_on_batches(queries, canet, monkeypatch: pytest.MonkeyPatch) -> None:
    route_ids = np.random.default_rng(1).integers(0, len(canet.space), len(queries))
    whole = scoring.rank_targets(canet.supernet, queries, route_ids)
    monkeypatch.setattr(scoring, "BODY_ROWS", 7)
    monkeypatch.setattr(scoring, "SCORE_BYTES", 1)
    monkeypatch.setattr(scoring, "SCORE_ROWS", 2)
    parts = scoring.rank_targets(canet.supernet, queries, torch.from_numpy(route_ids))
    np.testing.assert_array_equal(whole.keep, parts.keep)
    np.testing.assert_array_equal(whole.exclude, parts.exclude)


def test_all_routes_are_each_route(queries, canet) -> None:
    done = []
    every = scoring.rank_all_routes(canet.supernet, queries, done.append)
    assert sum(done) == len(queries) * len(canet.space)
    for route_id in range(len(canet.space)):
        one = scoring.rank_targets(canet.supernet, queries, np.full(len(queries), route_id))
        np.testing.assert_array_equal(every.keep[route_id], one.keep)
        np.testing.assert_array_equal(every.exclude[route_id], one.exclude)


def test_route_users_is_the_models_own_choice(queries, canet) -> None:
    ids = scoring.route_users(canet, queries)
    expected = canet.route(torch.from_numpy(queries.inputs(np.arange(len(queries)), 6)))
    np.testing.assert_array_equal(ids, expected.numpy())
    assert not scoring.route_users(toy_canet(ITEMS, router=False), queries).any()


def test_metrics() -> None:
    ranks = np.array([0, 1, 9, 10, 19, 20, MISS])
    assert recall(ranks, 10).tolist() == [1, 1, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(
        ndcg(ranks, 20), [1, 1 / np.log2(3), 1 / np.log2(11), 1 / np.log2(12), 1 / np.log2(21), 0, 0]
    )
    np.testing.assert_allclose(ndcg(ranks, 10)[3:], 0)
    found = summary(ranks)
    assert found["recall@20"] == 5 / 7
    assert found["se_recall@20"] == standard_error(recall(ranks, 20)) > 0
    assert summary(ranks[:0])["ndcg@10"] == 0
    assert standard_error(np.ones(1)) == 0
