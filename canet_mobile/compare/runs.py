"""Every method × seed as one job with a folder of its own, which is its cache.

    <folder>/runs/<method>.seed<n>.<key>/run/          the run directory that training makes and resumes
                                         record.json   what came out (evaluate/record.py), written last
                                         users.npz     rank, route and gains of every judged user
                                         failed.txt    why it failed, with the traceback

The key is a hash of configuration, data set content, measured costs and code, so a changed option is a new
job and a finished one is never done again. Jobs talk to the comparison through these files alone, in this
process or in others, and a killed one goes on from its training's last saved state.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from canet_mobile.accelerator import choose_device
from canet_mobile.compare.code import code_hash
from canet_mobile.compare.judge import is_complete, judge
from canet_mobile.compare.record import make_record
from canet_mobile.data.dataset import Dataset, load_dataset
from canet_mobile.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, CanetError
from canet_mobile.files import MANIFEST, atomic_file, read_json, write_json, write_text
from canet_mobile.model.recommender import move
from canet_mobile.routing.budget import what_costs
from canet_mobile.routing.reroute import ROUTER_KEYS, reroute
from canet_mobile.run.config import PAPER_COSTS, TrainConfig
from canet_mobile.run.directory import Run, find_run, load_model
from canet_mobile.train import trainer

# What a run is made with, not what it is: small differences in rounding, which the record's machine tells.
_NOT_IN_KEY = ("threads", "accelerator", "compile")
RUN, RECORD, USERS, FAILED = "run", "record.json", "users.npz", "failed.txt"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One method with one seed on one data set.

    Args:
        method: its name.
        config: what to train; the seed is in it.
        data: the data set's directory.
        content_hash: of the data set.
        limit: test users to judge; None for all.
        parent: the folder of all jobs.
    """

    method: str
    config: TrainConfig
    data: Path
    content_hash: str
    limit: int | None
    parent: Path

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the trained weights, 64 hex digits.

        Raises:
            CanetError: the table of costs is none.
        """
        config = {name: v for name, v in self.config.to_json().items() if name not in _NOT_IN_KEY}
        costs = config.pop("costs")
        if self.config.model == "canet":  # no other model asks what a route costs
            config["costs"] = costs if costs == PAPER_COSTS else what_costs(Path(costs))
        what = {"config": config, "dataset": self.content_hash, "code": code_hash()}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def label(self) -> str:
        """For progress lines."""
        return f"{self.method} seed {self.config.seed}"

    @property
    def directory(self) -> Path:
        """The job's own folder."""
        return self.parent / f"{self.method}.seed{self.config.seed}.{self.key[:12]}"

    def cached(self) -> dict[str, Any] | None:
        """The record, when the job is done for these users and what was kept of them can be read."""
        path = self.directory / RECORD
        if not (path.is_file() and (self.directory / USERS).is_file()):
            return None
        record = read_json(path)
        same = record["key"] == self.key and record["evaluation"]["limit"] == self.limit
        return record if same and is_complete(record["evaluation"], self._kept()) else None

    def _kept(self) -> tuple[str, ...]:
        """Names of the arrays in :data:`USERS`; none of a file that cannot be read."""
        try:
            with np.load(self.directory / USERS, allow_pickle=False) as arrays:
                return tuple(arrays.files)
        except (OSError, EOFError, ValueError, BadZipFile):
            return ()

    def users(self) -> dict[str, Any]:
        """The arrays of :func:`judge`, one entry per judged user."""
        with np.load(self.directory / USERS, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a record, or with the reason it has none."""

    job: Job
    record: dict[str, Any] | None
    reason: str | None


class _Lines:
    """Progress of one job as lines; also stops a job whose comparison is gone."""

    def __init__(self, label: str, epochs: int, say: Say) -> None:
        self.label, self.epochs, self.say = label, epochs, say

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        """Nothing to say; see whether anybody is still waiting."""
        refuse_orphan()

    def epoch(self, record: dict[str, Any]) -> None:
        """One line."""
        best = " *" if record["best"] else ""
        found = record["validation"]["ndcg10"]
        self.note(
            f"epoch {record['epoch'] + 1}/{self.epochs}, validation NDCG@10 {found:.4f}{best}, "
            f"{record['seconds']:.0f} s"
        )

    def stage(self, name: str, done: int, total: int) -> None:
        """Nothing to say; see whether anybody is still waiting."""
        refuse_orphan()

    def note(self, text: str) -> None:
        """Something worth saying."""
        self.say(f"{self.label}: {text}")


def refuse_orphan() -> None:
    """End a job whose comparison was killed, so that the next one does not meet it in the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise trainer.Interrupted("the comparison that started this run is gone")


def run_job(job: Job, say: Say) -> None:
    """Train, judge and record; on return the job is cached.

    Raises:
        CanetError: training or evaluation failed.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    dataset = load_dataset(job.data)
    run = _trained(job, dataset, say)
    say(f"{job.label}: judging")
    model = move(load_model(run), choose_device(job.config.accelerator))
    evaluation, users = judge(model, dataset, job.limit, lambda *_: refuse_orphan())
    evaluation["run"] = {"name": job.directory.name, "checkpoint_sha256": run.checkpoint_sha256}
    with atomic_file(job.directory / USERS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **users)
    record = make_record(job.method, run, dataset, evaluation)
    write_json(job.directory / RECORD, {**record, "key": job.key})


def _trained(job: Job, dataset: Dataset, say: Say) -> Run:
    directory = job.directory / RUN
    reporter = _Lines(job.label, job.config.epochs, say)
    if (directory / MANIFEST).is_file():
        run = find_run(directory)
        if run.manifest["status"] == "finished":
            return run
        say(f"{job.label}: goes on after epoch {run.manifest['progress']['epoch']}")
        return trainer.resume(run, dataset, reporter=reporter)
    shutil.rmtree(directory, ignore_errors=True)  # killed before its manifest was written
    source = _same_supernet(job)
    if source is not None:
        say(f"{job.label}: a new router for the supernet of {source.directory.parent.name}")
        wanted = job.config.to_json()
        changes = {key: wanted[key] for key in ROUTER_KEYS if wanted[key] != source.manifest["config"][key]}
        return reroute(source, dataset, directory, changes, reporter=reporter)
    say(f"{job.label}: training")
    return trainer.train(job.config, dataset, directory, reporter=reporter)


def _same_supernet(job: Job) -> Run | None:
    """A finished run in this comparison that differs from the job in its router alone."""
    if job.config.model != "canet" or job.config.recipe == "paper":
        return None
    own = set(ROUTER_KEYS) - {"seed", "validation_users"} | set(_NOT_IN_KEY)
    wanted = {key: value for key, value in job.config.to_json().items() if key not in own}
    for manifest in sorted(job.parent.glob(f"*/{RUN}/{MANIFEST}")):
        run = find_run(manifest.parent)
        found = {key: value for key, value in run.manifest["config"].items() if key not in own}
        same_data = run.dataset_hash == job.content_hash
        trained = "supernet_of" not in (run.manifest["routing"] or {})
        if run.manifest["status"] == "finished" and found == wanted and same_data and trained:
            return run
    return None


def guarded(job: Job, say: Say) -> int:
    """Run a job; whatever happens ends in its folder and in an exit code."""
    failed = job.directory / FAILED
    failed.unlink(missing_ok=True)
    try:
        run_job(job, say)
    except (trainer.Interrupted, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:  # the others go on, whatever it was
        reason = str(error) if isinstance(error, CanetError) else f"{type(error).__name__}: {error}"
        write_text(failed, f"{reason}\n\n{traceback.format_exc()}")
        say(f"{job.label}: failed: {reason}")
        return EXIT_ERROR
    return EXIT_OK


def outcome(job: Job, code: int) -> Outcome:
    """Read a job's result from its folder."""
    record = job.cached()
    if record is not None:
        return Outcome(job, record, None)
    failed = job.directory / FAILED
    if failed.is_file():
        return Outcome(job, None, failed.read_text(encoding="utf-8").split("\n\nTraceback", 1)[0].strip())
    killed = f"its process was killed by signal {-code}" if code < 0 else f"its process ended with {code}"
    return Outcome(job, None, f"{killed}; out of memory? try --jobs 1 or --set batch=16")


def run_all(jobs: Sequence[Job], *, processes: int, say: Say, progress: Say) -> list[Outcome]:
    """Run what is not cached, ``processes`` jobs at a time, and collect everything in the order given.

    Args:
        jobs: all jobs of the comparison.
        processes: 1 works in this process.
        say: prints a line.
        progress: called with a job's label after it ended.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    codes = dict.fromkeys(range(len(jobs)), EXIT_OK)
    waiting = [number for number, job in enumerate(jobs) if job.cached() is None]
    if processes == 1:
        for number in waiting:
            codes[number] = guarded(jobs[number], say)
            _refuse_interrupted(codes[number])
            progress(jobs[number].label)
    else:
        _in_processes(jobs, waiting, processes, codes, progress)
    return [outcome(job, codes[number]) for number, job in enumerate(jobs)]


def _in_processes(
    jobs: Sequence[Job], waiting: list[int], processes: int, codes: dict[int, int], progress: Say
) -> None:
    """A fresh process per job: what one leaks or crashes is its own."""
    context = multiprocessing.get_context("spawn")
    working: dict[Any, tuple[int, Any]] = {}
    interrupted = False
    while waiting or working:
        try:
            while waiting and len(working) < processes and not interrupted:
                number = waiting.pop(0)
                process = context.Process(target=_worker, args=(jobs[number],))
                process.start()
                working[process.sentinel] = number, process
            if interrupted and not working:
                break
            for sentinel in wait(list(working)):
                number, process = working.pop(sentinel)
                process.join()
                codes[number] = process.exitcode
                interrupted |= codes[number] == EXIT_INTERRUPTED
                if codes[number] != EXIT_INTERRUPTED:
                    progress(jobs[number].label)
        except KeyboardInterrupt:
            if interrupted:  # the second Ctrl-C
                for _, process in working.values():
                    process.terminate()
            interrupted = True  # the terminal told the workers as well; wait until they have saved
    _refuse_interrupted(EXIT_INTERRUPTED if interrupted else EXIT_OK)


def _refuse_interrupted(code: int) -> None:
    if code == EXIT_INTERRUPTED:
        raise trainer.Interrupted(
            "stopped; everything finished so far is kept", fix="the same command goes on"
        )


def _worker(job: Job) -> None:
    sys.exit(guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


def with_threads(config: TrainConfig, processes: int, cores: int) -> TrainConfig:
    """Share the cores among parallel jobs, unless ``--set threads`` said otherwise."""
    if config.threads or processes == 1:
        return config
    return replace(config, threads=max(1, cores // processes))
