"""What ``auto`` settles from the data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_toys import toy_dataset
from training_toys import small

from canet_mobile.data.dataset import Dataset
from canet_mobile.run.automatic import settled
from canet_mobile.run.presets import build_config
from canet_mobile.train.trainer import train

USERS, ITEMS = 100, 30


def people(returning: int, at_once: int = 0) -> Dataset:
    """Users whose validation target is new, but for some who return, and some of those to the last item."""
    histories = []
    for user in range(USERS):
        history = [(user + step) % ITEMS + 1 for step in range(7)]
        target = history[4] if user < at_once else history[1] if user < returning else history[5]
        histories.append([*history[:5], target, history[6]])
    return toy_dataset(histories, ITEMS)


@pytest.mark.parametrize(("returning", "seen"), [(0, "exclude"), (1, "exclude"), (2, "keep"), (60, "keep")])
def test_seen_items_are_kept_where_people_come_back(returning: int, seen: str) -> None:
    assert settled(small(), people(returning)).seen == seen


@pytest.mark.parametrize(
    ("returning", "at_once", "tied"),
    [(0, 0, "true"), (40, 0, "false"), (40, 4, "false"), (40, 5, "true"), (40, 40, "true")],
)
def test_tied_unless_people_come_back_but_hardly_ever_at_once(
    returning: int, at_once: int, tied: str
) -> None:
    assert settled(small(), people(returning, at_once)).tied == tied


@pytest.mark.parametrize("returning", [0, 40])
@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize("seen", ["keep", "exclude"])
def test_what_is_said_is_not_asked_of_the_data(returning: int, tied: str, seen: str) -> None:
    config = settled(small(tied=tied, seen=seen), people(returning))
    assert (config.tied, config.seen) == (tied, seen)


def test_seen_decides_with_the_protocol_that_was_asked_for() -> None:
    assert settled(small(seen="exclude"), people(40)).tied == "true"


@pytest.mark.parametrize("changes", [{"model": "fpmc"}, {"hidden": (8, 12)}])
def test_what_cannot_be_tied_is_not(changes: dict) -> None:
    assert settled(small(**changes), people(0)).tied == "false"


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({"length": 3}, True),
        ({"length": 4}, False),
        ({"length": 3, "windows": 1}, False),
        ({"moving": False}, False),
    ],
)
def test_windows_that_cannot_move_are_said_not_to(changes: dict, moving: bool) -> None:
    config = settled(small(**{"length": 3, **changes}), people(0))  # seven items: four targets in training
    assert config.moving is moving


def test_a_run_records_what_was_settled(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(epochs=1, tied="auto"), dataset, tmp_path / "run")
    assert run.config.tied in ("true", "false") and run.config.seen in ("keep", "exclude")
    assert f'tied = "{run.config.tied}"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")


def test_the_papers_recipe_is_untied() -> None:
    config = build_config(preset="paper")
    assert (config.tied, config.residual, config.router_table) == ("false", 0.0, "own")


@pytest.mark.parametrize(("given", "tied"), [("true", "true"), (True, "true"), (False, "false")])
def test_older_runs_and_files_say_true_without_quotes(given, tied: str) -> None:
    from canet_mobile.run.config import TrainConfig, apply

    assert apply(TrainConfig(), {"tied": given}).tied == tied
