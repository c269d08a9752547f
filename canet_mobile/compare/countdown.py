"""How long the rest of a comparison takes: what each run has to compute, at the pace of those that ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from canet_mobile.compare.runs import Job, Say
from canet_mobile.run.config import TrainConfig

# Seconds of training beside those of a SASRec as wide and deep, from a `quick` comparison of all methods on
# the embedded set. A forecast hangs on them and nothing else.
_BESIDE_SASREC = {
    "fpmc": 0.06,
    "gru4rec": 0.9,
    "nextitnet": 1.2,
    "sasrec": 1.0,
    "skiprec": 1.1,
    "autodim": 1.4,
}
_RECIPES = {"paper": 1.1, "rows": 0.7, "sandwich": 2.0}


def effort(config: TrainConfig, items: int) -> float:
    """What an epoch of this method has to compute, in a unit of its own.

    Every position of a history passes through the blocks, about 12 h² multiplications each, and is scored
    against the whole catalogue.
    """
    width, depth = config.hidden[-1], config.depth[-1]
    factor = _RECIPES[config.recipe] if config.model == "canet" else _BESIDE_SASREC[config.model]
    return factor * config.epochs * width * (12 * width * depth + items)


def countdown(jobs: Sequence[Job], items: int, say: Say, clock: Callable[[], float] = time.monotonic) -> Say:
    """Says after every job how many are left and for about how long.

    Args:
        jobs: all jobs; those that are cached take no time.
        items: number of items.
        say: prints a line.
        clock: seconds.

    Returns:
        What to call with a job's label when it has ended.
    """
    efforts = {job.label: effort(job.config, items) for job in jobs if job.cached() is None}
    if len(efforts) < len(jobs):
        say(f"{len(jobs) - len(efforts)} of {len(jobs)} runs are there already")
    started, total, ended = clock(), sum(efforts.values()), set[str]()

    def end(label: str) -> None:
        ended.add(label)
        done = sum(efforts[name] for name in ended)
        minutes = (clock() - started) / done * (total - done) / 60
        left = f", about {max(1, round(minutes))} min left" if len(ended) < len(efforts) else ""
        say(f"{label}: ended; {len(ended)} of {len(efforts)} runs{left}")

    return end
