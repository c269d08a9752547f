"""From a run to a package: quantize, export, describe, check; a package that fails its check is not kept."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_export.accuracy import choose_integers, require_accuracy
from canet_export.checks import MIN_ROUTER_AGREEMENT
from canet_export.graph import Seen, restricted
from canet_export.job import Job, Quantization
from canet_export.lengths import choose_lengths
from canet_export.manifest import (
    GOLDEN_FILE,
    ITEMS_FILE,
    golden_rows,
    write_golden,
    write_items,
    write_manifest,
)
from canet_export.measured import Measured, measure, with_package
from canet_export.parity import parity, require
from canet_export.targets import Target
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.lists import LIST_LENGTH, list_length
from canet_mobile.data.split import HeldOut, held_out
from canet_mobile.errors import ParityError, UsageError
from canet_mobile.files import MANIFEST, atomic_file, staged_directory
from canet_mobile.model.canet import Canet
from canet_mobile.model.space import Route
from canet_mobile.package.archive import without_companions
from canet_mobile.package.package import open_package
from canet_mobile.run.directory import Run

GOLDEN_USERS = 512
DECISION_USERS = 4000  # validation users on which routes and precision are chosen


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Args:
        quantization: ``int8`` (one integer supernet, one scale per output row), ``int4`` (groups of 32),
            ``fp16`` or ``fp32``.
        routes: the submodels; None exports all. With fewer, the router chooses among these only.
        k: items per answer; None is 20, or as many as there are left.
        seen: ``exclude`` removes the items of the input inside the graph.
        split: see :class:`Job`.
        minimum_os: see :class:`Job`.
        plain: see :class:`Job`.
        lengths: positions that each entry is written for; None chooses them by the validation histories, and
            takes the model's L alone where all routes are exported, or split.
        users: validation users on whom the package's accuracy is measured; 0 leaves it out.
        allow_accuracy_drop: export int4 even where it loses more than the bound.
    """

    quantization: Quantization = "int8"
    routes: tuple[Route, ...] | None = None
    k: int | None = None
    seen: Seen = "keep"
    split: bool = False
    minimum_os: str | None = None
    plain: bool = False
    lengths: tuple[int, ...] | None = None
    users: int = 500
    allow_accuracy_drop: bool = False


@dataclass(frozen=True)
class Prepared:
    """What all targets share of an export; it is made once.

    Args:
        job: what is to be written.
        higher: tensors that are kept in higher precision for the router's sake.
        queries: validation users on whom the package is measured.
        measured: on them, before any package ran; None leaves it out.
    """

    job: Job
    higher: frozenset[str]
    queries: HeldOut
    measured: Measured | None


def prepare(
    canet: Canet, dataset: Dataset, options: ExportOptions, warn: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Choose the routes, restrict the router to them, make the integers and judge them.

    Args:
        canet: the run's model.
        dataset: its data set.
        options: what to export.
        warn: told what is odd but no error.

    Raises:
        UsageError: more items are asked for than there are, or the widths do not fit the preset.
        CanetError: int4 loses more than the bound.
    """
    space, config = canet.space, canet.supernet.config
    k = _chosen_k(options, dataset, config.length)
    if k < (options.k or LIST_LENGTH):
        least = f"{k} of {config.items} items: seen=exclude leaves some histories no more"
        warn(f"lists hold {f'all {k} items' if options.seen == 'keep' else least}")
    chosen = set(options.routes or space.routes)
    routes = tuple(route for route in space if route in chosen)
    model = restricted(canet, [space.id_of(route) for route in routes])
    integers, higher = None, frozenset[str]()
    if options.quantization in ("int8", "int4"):
        queries = held_out(dataset, "validation", limit=DECISION_USERS)
        bits = 8 if options.quantization == "int8" else 4
        choice = choose_integers(model, bits, queries, options.seen)  # type: ignore[arg-type]
        integers, higher = choice.integers, choice.higher
        if options.quantization == "int4" and not options.allow_accuracy_drop:
            require_accuracy(choice, options.quantization, len(queries))
        elif choice.agreement < MIN_ROUTER_AGREEMENT:
            warn(
                f"the quantized router agrees with fp32 on {choice.agreement:.1%} of {len(queries):,} "
                f"validation users, less than {MIN_ROUTER_AGREEMENT:.1%}"
            )
    job = Job(
        model, integers, options.quantization, routes, k, options.seen,
        split=options.split, minimum_os=options.minimum_os, plain=options.plain,
        item_labels=tuple(map(str, dataset.item_table().sort("index")["item_id"])),
    )  # fmt: skip
    if options.split and len(options.lengths or ()) > 1:
        raise UsageError("--split writes entries at one length", fix=f"--lengths {config.length}")
    if options.lengths is not None:
        job = replace(job, lengths=options.lengths)
    elif options.routes is not None and not (options.plain or options.split):
        job = replace(job, lengths=choose_lengths(job, _golden_histories(dataset, job)))
    users = held_out(dataset, "validation", limit=max(options.users, 1))
    return Prepared(job, higher, users, measure(model, job, users) if options.users else None)


def export_package(
    run: Run,
    prepared: Prepared,
    dataset: Dataset,
    target: Target,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export a run as a package.

    Args:
        run: where the model comes from; the manifest names the hash of its checkpoint.
        prepared: its model with the options of the export.
        dataset: its data set; the item map and the golden rows come from it.
        target: in which format.
        out: the package directory to make.
        force: replace a package that stands there.
        progress: told what is being done.

    Returns:
        The manifest.

    Raises:
        UsageError: the preset does not fit the target.
        ParityError: the package does not hold or compute what PyTorch does; nothing is left behind.
        CanetError: the toolkit is missing, or ``out`` may not be written.
    """
    job, queries = prepared.job, prepared.queries
    if not target.lengths:
        job = replace(job, lengths=())
    target.require_quantization(job.quantization)
    target.require_toolkit()
    with staged_directory(out, force=force, kind="package") as stage:
        result = target.export(job, stage, progress)
        progress("read the weights back")
        weights = target.check_stored(stage, job)
        if not weights.passed:
            shown = "\n  ".join(str(failure) for failure in weights.failures[:5])
            raise ParityError(f"{weights.detail}:\n  {shown}", where=out)
        progress("write the golden rows and the item map")
        write_golden(stage / GOLDEN_FILE, golden_rows(job, _golden_histories(dataset, job)))
        write_items(stage / ITEMS_FILE, dataset)

        def describe(measured: Measured | None) -> dict[str, Any]:
            return write_manifest(
                stage,
                job,
                result,
                target=target.name,
                higher_precision=sorted(prepared.higher),
                dataset={"name": dataset.name, "content_hash": dataset.content_hash},
                checkpoint={"sha256": run.checkpoint_sha256},
                measured=measured,
            )

        manifest = describe(prepared.measured)
        progress("run the golden rows through the package")
        package = open_package(stage)
        require(parity(package), where=out)
        if prepared.measured is not None:
            progress(f"run {len(queries)} held-out users through the package")
            manifest = describe(with_package(prepared.measured, package, queries))
    return manifest


def _chosen_k(options: ExportOptions, dataset: Dataset, length: int) -> int:
    """The length of the lists: what was asked for, else :data:`LIST_LENGTH` or what is left.

    Raises:
        UsageError: there are not as many items, or none.
    """
    wanted = options.k or LIST_LENGTH
    most = list_length(dataset, length, options.seen, wanted)
    if not most:
        raise UsageError(
            f"--seen exclude leaves nothing to recommend: one history holds all {dataset.num_items} items",
            where=dataset.directory,
            fix="--seen keep",
        )
    if options.k and options.k > most:
        holds = f" besides the {dataset.num_items - most} that one history holds"
        raise UsageError(
            f"--k {options.k}: there are only {most} items{holds if options.seen == 'exclude' else ''}",
            where=dataset.directory,
            fix=f"--k {most}, or leave it out",
        )
    return most


def _golden_histories(dataset: Dataset, job: Job) -> NDArray[np.int32]:
    queries = held_out(dataset, "validation", limit=GOLDEN_USERS)
    return queries.inputs(slice(None), job.canet.supernet.config.length)


def zip_package(directory: Path, target: Path) -> Path:
    """Write a package as one zip, uncompressed so that a phone can map the model file, manifest first."""
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    names = sorted(without_companions(files)[0], key=lambda name: (name != MANIFEST, name))
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), (directory / name).read_bytes())
    return target
