"""How histories are cut into training windows, at one place or at another in every epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_toys import random_histories, toy_dataset
from training_toys import small, weights

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import Windows, training_windows
from canet_mobile.run.directory import load_model
from canet_mobile.train.schedule import epoch_windows
from canet_mobile.train.trainer import train

DATA = toy_dataset(random_histories(40, 30, longest=40), 30)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def targets_of(windows: Windows) -> list[int]:
    """Every target's place in the data set's items, as often as it is one."""
    spans = zip(windows.starts, windows.ends, strict=True)
    return sorted(place for start, end in spans for place in range(start + 1, end))


def all_targets(dataset: Dataset) -> list[int]:
    ends = zip(dataset.offsets, dataset.offsets[1:], strict=False)
    return [place for begin, end in ends for place in range(begin + 1, end - 2)]


@pytest.mark.parametrize("length", [3, 5, 50])
def test_every_item_but_the_first_is_a_training_target_once(length: int) -> None:
    windows = training_windows(DATA, length)
    assert targets_of(windows) == all_targets(DATA)
    assert windows.sizes.min() >= 1 and windows.sizes.max() <= length


@pytest.mark.parametrize("length", [3, 5, 50])
def test_moved_windows_repeat_targets_of_the_newest_alone(length: int) -> None:
    windows = training_windows(DATA, length, moved=generator())
    found = targets_of(windows)
    assert sorted(set(found)) == all_targets(DATA)
    assert windows.sizes.min() >= 1 and windows.sizes.max() <= length
    end_of = np.repeat(DATA.offsets[1:] - 2, np.diff(DATA.offsets))
    twice = {place for place in found if found.count(place) > 1}
    assert all(end_of[place] - place <= length for place in twice)
    assert max(map(found.count, twice), default=1) <= 2 and bool(twice) == (length < 50)


def test_the_newest_window_is_always_whole_and_the_others_move() -> None:
    fixed = training_windows(DATA, 5)
    newest = {
        (start, end) for start, end in zip(fixed.starts, fixed.ends, strict=True) if end in DATA.offsets - 2
    }
    drawn = [training_windows(DATA, 5, moved=generator(seed)) for seed in range(5)]
    cut = [set(zip(windows.starts, windows.ends, strict=True)) for windows in drawn]
    assert all(newest <= windows for windows in cut)
    assert len({frozenset(windows) for windows in cut}) == 5
    # Over the draws an item stands at every distance from its window's end.
    long = int(np.diff(DATA.offsets).argmax())
    ends = {end for windows in drawn for end in windows.ends[windows.users == long]}
    assert len(ends) > 2 * (fixed.users == long).sum()


def test_moved_windows_come_newest_first_so_that_the_last_can_be_kept() -> None:
    for last in (1, 2):
        windows = training_windows(DATA, 5, last=last, moved=generator())
        everything = training_windows(DATA, 5, moved=generator())
        assert np.bincount(windows.users).max() == last
        kept = set(zip(windows.users, windows.ends, strict=True))
        for user in range(DATA.num_histories):
            ends = sorted(everything.ends[everything.users == user])[-last:]
            assert {(user, end) for end in ends} == {pair for pair in kept if pair[0] == user}


def test_an_epochs_windows_follow_from_the_seed_and_the_epoch() -> None:
    config = small(length=5)

    def places(epoch: int, **changes: object) -> list[int]:
        return epoch_windows(DATA, small(length=5, **changes), epoch).ends.tolist()

    assert config.moving and places(0) == places(0) != places(1)
    assert places(0, seed=1) != places(0)
    assert places(0, moving=False) == places(1, moving=False) == training_windows(DATA, 5).ends.tolist()


@pytest.mark.parametrize(("longest", "same"), [(9, True), (30, False)])
def test_training_moves_the_windows_of_long_histories_alone(longest: int, same: bool, tmp_path: Path) -> None:
    """Histories of up to 9 items have at most 6 targets: one window of 8 holds them."""
    dataset = toy_dataset(random_histories(30, 20, longest=longest), 20)
    found = []
    for moving in (True, False):
        config = small(moving=moving, embedding=(8,), hidden=(8,), depth=(1,), model="sasrec", epochs=2)
        found.append(weights(load_model(train(config, dataset, tmp_path / str(moving)))))
    assert torch.equal(*(each["item_table"] for each in found)) == same
