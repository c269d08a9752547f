"""Who stands near whom in training histories, against a naive count, and what a teacher makes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from evaluation_toys import random_histories, toy_dataset
from training_toys import SASREC, of_recipe, small, weights

from canet_mobile.data import neighbours
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.neighbours import FADE, REACH, Neighbours, Opinion, find_neighbours, newest
from canet_mobile.data.transitions import transitions
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import load_model
from canet_mobile.train.objectives import asks_neighbours
from canet_mobile.train.trainer import train

ITEMS = 12


def naive(histories: list[list[int]]) -> dict[int, Counter[int]]:
    near: dict[int, Counter[int]] = defaultdict(Counter)
    for history in histories:
        training = history[:-2]
        for place, item in enumerate(training):
            for distance, later in enumerate(training[place + 1 : place + 1 + REACH], start=1):
                near[item][later] += FADE ** (distance - 1)
                near[later][item] += 0.5 * FADE ** (distance - 1)
    return near


@pytest.mark.parametrize("distance", [1, 3])
def test_transitions_are_those_of_training_within_one_history(distance: int) -> None:
    histories = random_histories(30, ITEMS, seed=1)
    expected = Counter(
        (history[place], history[place + distance])
        for history in histories
        for place in range(max(0, len(history) - 2 - distance))
    )
    before, after, counts = transitions(toy_dataset(histories, ITEMS), distance)
    found = list(zip(before.tolist(), after.tolist(), counts.tolist(), strict=True))
    assert found == [(a, b, expected[a, b]) for a, b in sorted(expected)]


def test_neighbours_are_the_naive_count_the_strongest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "NEAREST", 4)
    histories = random_histories(40, ITEMS, seed=2)
    expected = naive(histories)
    found = find_neighbours(toy_dataset(histories, ITEMS))
    assert found.items.shape == found.shares.shape == (ITEMS + 1, 4)
    assert not found.items[0].any() and not found.shares[0].any(), "padding has none"
    for item in range(1, ITEMS + 1):
        near = expected[item]
        strongest = sorted(near, key=lambda other: (-round(near[other], 9), other))[:4]
        assert found.items[item].tolist() == strongest + [0] * (4 - len(strongest))
        shares = [near[other] / near.total() for other in strongest]
        assert found.shares[item].tolist() == pytest.approx(shares + [0] * (4 - len(strongest)))


def test_what_is_held_out_makes_nobody_a_neighbour() -> None:
    found = find_neighbours(toy_dataset([[1, 2, 3, 4], [5, 6, 7]], 7))
    assert found.items[1, 0] == 2 and found.items[2, 0] == 1
    assert not found.shares[3:].any(), "items of nothing but validation and test, and one alone, have none"


def test_histories_of_one_training_item_have_no_neighbours() -> None:
    found = find_neighbours(toy_dataset([[1, 2, 3], [4, 5, 6]], 6))
    assert not found.items.any() and not found.shares.any()


def test_the_newest_items_stand_first() -> None:
    seq = torch.tensor([[0, 0, 3, 4, 5, 6, 7, 8]])
    found = newest(seq)
    assert found.shape == (1, 8, REACH)
    assert found[0, 1].tolist() == [0, 0, 0, 0, 0]
    assert found[0, 3].tolist() == [4, 3, 0, 0, 0]
    assert found[0, 7].tolist() == [8, 7, 6, 5, 4]


def test_an_opinion_replaces_its_share_of_beliefs_and_no_more() -> None:
    items = torch.zeros(4, 2, dtype=torch.int32)
    shares = torch.zeros(4, 2)
    items[1], shares[1] = torch.tensor([2, 3]), torch.tensor([0.5, 0.25])
    items[2], shares[2] = torch.tensor([3, 0]), torch.tensor([1.0, 0.0])
    recent = torch.tensor([[3, 0, 0, 0, 0], [1, 0, 0, 0, 0], [2, 1, 0, 0, 0]])
    opinion = Opinion(Neighbours(items, shares), recent, 0.4)
    before = torch.rand(2, 4).softmax(1)
    beliefs = before.clone()
    opinion.mix_into(beliefs, slice(0, 2))
    assert torch.equal(beliefs[0], before[0]), "no item of it has a neighbour"
    expected = 0.6 * before[1] + 0.4 * torch.tensor([0, 0, 2 / 3, 1 / 3])
    torch.testing.assert_close(beliefs[1], expected)
    third = torch.zeros(1, 4)
    opinion.mix_into(third, slice(2, 3))
    # Item 2 says 3 with weight 1, item 1 half and a quarter of a weight that has faded once.
    said = torch.tensor([[0, 0, FADE / 2, 1 + FADE / 4]])
    torch.testing.assert_close(third, 0.4 * said / said.sum())


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (small(), True),
        (of_recipe("taught"), True),
        (of_recipe("averaged"), False),
        (small(**SASREC), False),
        (small(recipe="rows"), False),
        (small(recipe="paper"), False),
        (small(average=0.0), False),
        (small(cooccurrence=0.0), False),
    ],
    ids=["sandwich", "taught", "averaged", "sasrec", "rows", "paper", "no average", "no share"],
)
def test_neighbours_are_asked_where_an_average_teaches(config: TrainConfig, asked: bool) -> None:
    assert asks_neighbours(config) is asked


@pytest.mark.parametrize("recipe", ["sandwich", "taught"])
def test_neighbours_change_what_is_learnt(dataset: Dataset, tmp_path: Path, recipe: str) -> None:
    first, second = (
        weights(
            load_model(train(of_recipe(recipe, epochs=1, cooccurrence=share), dataset, tmp_path / str(share)))
        )
        for share in (0.0, 0.5)
    )
    assert not torch.equal(first["item_table"], second["item_table"])
