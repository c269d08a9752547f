"""The forecast of a comparison's remaining time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canet_mobile.compare.countdown import countdown, effort
from canet_mobile.compare.judge import OF_ALL
from canet_mobile.compare.methods import known_methods, method_config
from canet_mobile.compare.runs import RECORD, USERS, Job
from canet_mobile.files import write_json
from canet_mobile.run.config import TrainConfig

ITEMS = 3457


def _job(name: str, parent: Path, seed: int = 0) -> Job:
    base = TrainConfig()
    config = method_config(known_methods(base, ITEMS)[name], base, seed)
    return Job(name, config, parent, "hash", None, parent)


def test_a_quick_method_that_ends_first_promises_no_early_end(tmp_path: Path) -> None:
    jobs = [_job(name, tmp_path) for name in ("fpmc", "sasrec-full", "canet")]
    said: list[str] = []
    clock = iter([0.0, 60.0, 960.0, 3000.0])
    ended = countdown(jobs, ITEMS, said.append, lambda: next(clock))
    for job in jobs:
        ended(job.label)
    fpmc, full, canet = (effort(job.config, ITEMS) for job in jobs)
    assert said[0] == f"fpmc seed 0: ended; 1 of 3 runs, about {round((full + canet) / fpmc)} min left"
    assert (
        said[1]
        == f"sasrec-full seed 0: ended; 2 of 3 runs, about {round(16 * canet / (fpmc + full))} min left"
    )
    assert said[2] == "canet seed 0: ended; 3 of 3 runs"


def test_cached_runs_take_no_time(tmp_path: Path) -> None:
    jobs = [_job("sasrec-full", tmp_path, seed) for seed in range(3)]
    write_json(
        jobs[0].directory / RECORD, {"key": jobs[0].key, "evaluation": {"limit": None, "routing": None}}
    )
    np.savez(jobs[0].directory / USERS, **{name: np.zeros(3) for name in OF_ALL})
    said: list[str] = []
    clock = iter([0.0, 600.0])
    ended = countdown(jobs, ITEMS, said.append, lambda: next(clock))
    ended(jobs[1].label)
    assert said == [
        "1 of 3 runs are there already",
        "sasrec-full seed 1: ended; 1 of 2 runs, about 10 min left",
    ]


def test_every_method_has_an_effort_that_grows_with_its_epochs_and_the_catalogue(tmp_path: Path) -> None:
    for name in known_methods(TrainConfig(), ITEMS):
        if name == "sasrec-same":
            continue
        config = _job(name, tmp_path).config
        assert effort(config, 10 * ITEMS) > effort(config, ITEMS) > 0
        assert effort(replace(config, epochs=2 * config.epochs), ITEMS) == pytest.approx(
            2 * effort(config, ITEMS)
        )
    small, full = (effort(_job(name, tmp_path).config, ITEMS) for name in ("sasrec-small", "sasrec-full"))
    assert small < full / 1.5
