"""Popularity and Markov floors against a naive count with dictionaries."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from evaluation_toys import random_histories, toy_dataset

from canet_mobile.data.split import held_out
from canet_mobile.evaluate import floors
from canet_mobile.evaluate.metrics import MISS


def naive(histories: list[list[int]], items: int, split: str, markov: bool) -> tuple[list[int], list[int]]:
    popularity: Counter[int] = Counter()
    successors: dict[int, Counter[int]] = defaultdict(Counter)
    for history in histories:
        training = history[:-2]
        popularity.update(training)
        for before, after in pairwise(training):
            successors[before][after] += 1
    keep, exclude = [], []
    for history in histories:
        end = len(history) - (1 if split == "test" else 2)
        read, target = history[:end], history[end]
        counts = successors[read[-1]] if markov else Counter()
        order = sorted(range(1, items + 1), key=lambda i: (-counts[i], -popularity[i], i))
        shown = [item for item in order if item not in read]
        keep.append(order.index(target))
        exclude.append(shown.index(target) if target in shown else MISS)
    return keep, exclude


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("markov", [True, False], ids=["markov", "popularity"])
@pytest.mark.parametrize(("users", "items"), [(200, 15), (40, 60)], ids=["dense", "sparse"])
def test_floors_are_the_naive_counts(
    split, markov: bool, users: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "QUERIES_AT_A_TIME", 17)
    histories = random_histories(users, items, seed=users)
    dataset = toy_dataset(histories, items)
    rank = floors.markov_ranks if markov else floors.popularity_ranks
    found = rank(floors.count_training(dataset), held_out(dataset, split))
    keep, exclude = naive(histories, items, split, markov)
    np.testing.assert_array_equal(found.keep, keep)
    np.testing.assert_array_equal(found.exclude, exclude)


def test_a_last_item_without_successors_falls_back_to_popularity() -> None:
    dataset = toy_dataset([[1, 2, 3, 4], [2, 5, 6, 1], [3, 4, 5]], 6)
    counted = floors.count_training(dataset)
    queries = held_out(dataset, "test")  # the last items read are 3, 6 and 4: none has a successor
    markov = floors.markov_ranks(counted, queries)
    popular = floors.popularity_ranks(counted, queries)
    np.testing.assert_array_equal(markov.keep, popular.keep)
    np.testing.assert_array_equal(markov.exclude, popular.exclude)


def test_no_transition_at_all() -> None:
    dataset = toy_dataset([[1, 2, 3], [2, 1, 3]], 3)
    found = floors.markov_ranks(floors.count_training(dataset), held_out(dataset, "test"))
    assert found.keep.tolist() == [2, 2]
    assert found.exclude.tolist() == [0, 0]


def test_a_large_catalogue_needs_no_square_table() -> None:
    items = 200_000
    dataset = toy_dataset(random_histories(300, items, longest=30), items)
    found = floors.markov_ranks(floors.count_training(dataset), held_out(dataset, "test"))
    assert found.keep.shape == (300,)
    assert (found.keep < items).all()
