"""A whole comparison: its folder, its jobs, its report.

<folder>/manifest.json   that it is a comparison, and of which data set
         runs/           one folder per method and seed, kept for ever: the cache
         records/        the records this report is made of, one small JSON per run
         compare.*       the report
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from canet_mobile import __version__
from canet_mobile.compare.countdown import countdown
from canet_mobile.compare.document import Settings, build
from canet_mobile.compare.methods import SAME, Method, method_config, same_cost, select
from canet_mobile.compare.presets import PRESETS, base_config
from canet_mobile.compare.report import write_report
from canet_mobile.compare.runs import Job, Outcome, Say, run_all, with_threads
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import (
    MANIFEST,
    REPLACES,
    manifest_of,
    place_for,
    refuse_existing,
    take_place,
    write_json,
)
from canet_mobile.machine import describe_machine
from canet_mobile.run.automatic import settled
from canet_mobile.run.config import TrainConfig

KIND = "comparison"
RUNS, RECORDS, LOCK = "runs", "records", ".lock"


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Args:
        models: names, groups, ``all`` or ``sasrec-WIDTHxDEPTH[-RECIPE]``.
        seeds: how many, 0 upwards.
        preset: a key of :data:`canet_mobile.compare.presets.PRESETS`.
        settings: configuration keys changed for every method.
        limit: test users to judge; None takes the preset's number.
        processes: jobs at a time.
    """

    models: Sequence[str] = ("all",)
    seeds: int = 3
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    processes: int = 1


def compare(dataset: Dataset, plan: Plan, folder: Path, *, force: bool, say: Say) -> dict[str, Any]:
    """Run what is missing, then write the report.

    Args:
        dataset: what to compare on.
        plan: the methods and how much work each gets.
        folder: a new folder, or that of an earlier comparison on the same data set, whose runs are kept.
        force: replace a comparison on another data set, when this one's report is written; until then it is
            made in ``<folder>.new``, and the same call goes on there.
        say: prints a line of progress.

    Returns:
        The document of schemas/comparison.schema.json.

    Raises:
        UsageError: a method, preset or key does not exist.
        CanetError: the folder holds something else, or another comparison is at work in it.
        Interrupted: Ctrl-C; the same call goes on.
    """
    base = base_config(plan.preset, dict(plan.settings))
    methods = select(plan.models, base, dataset.num_items)
    limit = plan.limit or PRESETS[plan.preset].limit
    standing, folder = folder, _open_folder(folder, dataset, force=force)
    with _locked(folder):
        # What leans on CANet comes after it: a plain model of its cost, other routers for its supernet.
        first = [method for method in methods if method.name != SAME and method.group != "recipe"]
        outcomes = _run(first, base, dataset, plan, limit, folder / RUNS, say)
        methods = _with_same_cost(methods, outcomes, base, dataset.num_items)
        last = [method for method in methods if method.name not in {done.name for done in first}]
        outcomes += _run(last, base, dataset, plan, limit, folder / RUNS, say)
        settings = Settings(plan.preset, dict(plan.settings), base, range(plan.seeds), limit)
        document = build(settings, dataset, methods, outcomes)
        _copy_records(outcomes, folder / RECORDS)
        written = write_report(document, folder)
        if folder != standing:
            _write_manifest(folder, dataset)
            refuse_existing(standing, force=True, kind=KIND)
            take_place(folder, standing)
        for path in written:
            say(f"wrote {standing / path.name}")
    return document


def failed(document: Mapping[str, Any]) -> bool:
    """Whether any run of a comparison failed."""
    return any(row["failures"] for row in document["methods"])


def _with_same_cost(
    methods: Sequence[Method], outcomes: Sequence[Outcome], base: TrainConfig, items: int
) -> list[Method]:
    """The methods with SASRec-same as large as CANet's first seed costs; without it, when another one is."""
    records = [outcome.record for outcome in outcomes if outcome.job.method == "canet" and outcome.record]
    if not records:
        return [method for method in methods if method.name != SAME]
    sized = same_cost(base, items, records[0]["evaluation"]["costs"]["paper_mflops"])
    if any(method.pins == sized.pins for method in methods):
        return [method for method in methods if method.name != SAME]
    return [sized if method.name == SAME else method for method in methods]


def _run(
    methods: Sequence[Method],
    base: TrainConfig,
    dataset: Dataset,
    plan: Plan,
    limit: int | None,
    runs: Path,
    say: Say,
) -> list[Outcome]:
    jobs, impossible = _jobs(methods, base, dataset, plan, limit, runs)
    progress = countdown(jobs, dataset.num_items, say)
    return impossible + run_all(jobs, processes=plan.processes, say=say, progress=progress)


def _jobs(
    methods: Sequence[Method], base: TrainConfig, dataset: Dataset, plan: Plan, limit: int | None, runs: Path
) -> tuple[list[Job], list[Outcome]]:
    """A job per seed and method, seeds outermost so that a first whole table is there early; and, as failed
    outcomes, the methods whose configuration cannot be."""
    jobs, impossible = [], []
    data = dataset.directory.resolve()
    cores = describe_machine()["cores"]
    for seed in range(plan.seeds):
        for method in methods:
            config, reason = replace(base, seed=seed), None
            try:
                config = settled(method_config(method, base, seed), dataset)
                config = with_threads(config, plan.processes, cores)
            except UsageError as error:
                reason = str(error)
            job = Job(method.name, config, data, dataset.content_hash, limit, runs)
            if reason is None:
                jobs.append(job)
            else:
                impossible.append(Outcome(job, None, reason))
    return jobs, impossible


def _open_folder(folder: Path, dataset: Dataset, *, force: bool) -> Path:
    """Where the comparison is made: the folder, new or of a comparison on this data set; or, with ``force``,
    beside one on another data set."""
    manifest = _comparison(folder)
    if manifest is not None:
        if manifest["dataset"]["content_hash"] == dataset.content_hash:
            return folder
        if not force:
            raise CanetError(
                f"holds a comparison on another data set ({manifest['dataset']['name']}), "
                f"not on this {dataset.name}",
                where=folder,
                fix="choose another --out, or --force to replace it and all its runs",
            )
    place = place_for(folder, force=force, kind=KIND)
    begun = _comparison(place)
    if begun is not None and begun["dataset"]["content_hash"] == dataset.content_hash:
        return place
    if place.exists():
        shutil.rmtree(place)
    _write_manifest(place, dataset, **({} if place == folder else {REPLACES: folder.name}))
    return place


def _comparison(folder: Path) -> dict[str, Any] | None:
    manifest = manifest_of(folder)
    return manifest if manifest is not None and manifest.get("kind") == KIND else None


def _write_manifest(folder: Path, dataset: Dataset, **more: str) -> None:
    write_json(
        folder / MANIFEST,
        {
            "schema_version": 1,
            "kind": KIND,
            "created_by": f"canet-mobile {__version__}",
            "dataset": {"name": dataset.name, "content_hash": dataset.content_hash},
            **more,
        },
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One comparison at a time per folder; the lock goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CanetError(
                "another comparison is at work here", where=folder, fix="wait for it, or choose another --out"
            ) from None
        yield


def _copy_records(outcomes: Sequence[Outcome], folder: Path) -> None:
    """The records of this report, named as those of benchmarks/results/."""
    shutil.rmtree(folder, ignore_errors=True)
    for outcome in outcomes:
        if outcome.record is not None:
            record = outcome.record
            write_json(folder / f"{record['data']}.{record['experiment']}.seed{record['seed']}.json", record)
