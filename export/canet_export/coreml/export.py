"""Core ML: one multifunction .mlpackage for iOS 18, or one .mlpackage per entry for iOS 17.

Multifunction: the default function ``router`` and one function per route in one file, every constant stored
once. The functions are written with coremltools' builder, not converted, so that the integers are the job's
own and sharing is declared; coremltools' own quantizer scales each slice anew and refuses several functions.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from canet_export.coreml.builder import Precision, Store
from canet_export.coreml.functions import route_function, router_function
from canet_export.coreml.mlpackage import files_of, write_mlpackage
from canet_export.coreml.sizes import alone_bytes, measure, package_bytes
from canet_export.coreml.toolkit import toolkit
from canet_export.graph import ROUTER_ENTRY
from canet_export.job import ExportResult, Job, Progress
from canet_mobile.errors import UsageError
from canet_mobile.machine import quiet
from canet_mobile.model.integers import GROUP
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import Route
from canet_mobile.replay.mil.model import open_mlpackage

MODEL_FILE = "canet.mlpackage"
IOS17 = "ios17"
ROUTES_KEY = "canet.routes"
MAIN = "main"
SYSTEMS = {"ios17": {"ios": "17.0", "macos": "14.0"}, "ios18": {"ios": "18.0", "macos": "15.0"}}


def require_toolkit() -> None:
    """Raises: CanetError: coremltools is missing; names the extra to install."""
    toolkit()


def export(job: Job, out_dir: Path, progress: Progress = lambda _: None) -> ExportResult:
    """Write ``canet.mlpackage``, or for ``minimum_os="ios17"`` one package per entry.

    Functions: ``router`` (seq int32 [1, L], point int32 [1] -> route int32 [1]) and one per route (seq ->
    scores float32 [1, k], ids int32 [1, k]).

    Args:
        job: what to write.
        out_dir: an existing folder.
        progress: told what is being done.

    Raises:
        CanetError: the toolkit is missing.
        UsageError: int4 for iOS 17, or widths that int4 cannot group.
    """
    kit = toolkit()
    _check(job)
    older = job.minimum_os == IOS17
    entries = [ROUTER_ENTRY, *(route.entry for route in job.routes)]
    if older:
        files = {entry: f"{entry}.mlpackage" for entry in entries}
        for number, entry in enumerate(entries, start=1):
            progress(f"write {number}/{len(entries)}: {entry}")
            write_package(job, kit, out_dir / files[entry], [entry], multifunction=False)
    else:
        progress(f"write {len(entries)} functions")
        files = dict.fromkeys(entries, MODEL_FILE)
        write_package(job, kit, out_dir / MODEL_FILE, entries, multifunction=True, progress=progress)
    packages = list(dict.fromkeys(files.values()))
    opened = [open_mlpackage(out_dir / name) for name in packages]
    classes = job.canet.supernet.config.items + 1
    return ExportResult(
        model_file=files[ROUTER_ENTRY],
        files=tuple(f"{name}/{file}" for name in packages for file in files_of(out_dir / name)),
        exporter={"coremltools": kit.version},
        sizes=measure(opened, classes, _full_model_alone(job, kit, out_dir, files)),
        minimum_os=SYSTEMS["ios17" if older else "ios18"],
        index_dtype="int32",
        interface={"style": "files", "files": files} if older else {"style": "entries"},
        runtime=_runtime(job, older),
        parts={file: (entry,) for entry, file in files.items()} if older else {},
    )


def _check(job: Job) -> None:
    if job.quantization == "int4":
        if job.minimum_os == IOS17:
            raise UsageError(
                "iOS 17 has no integers of 4 bits: constexpr_blockwise_shift_scale came with iOS 18",
                fix="--quantize int8, or leave --minimum-os out",
            )
        space = job.canet.space
        odd = [width for width in (*space.embedding, *space.hidden) if width % GROUP]
        if odd:
            raise UsageError(
                f"int4 scales groups of {GROUP} columns; the space has the width {odd[0]}",
                fix=f"train with widths that are multiples of {GROUP}, or --quantize int8",
            )


def precision(job: Job) -> Precision:
    """What the routes compute in."""
    return "fp32" if job.quantization == "fp32" else "fp16"


def _runtime(job: Job, older: bool) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {
        "specification_version": 8 if older else 9,
        "compute_precision": {"fp16": "float16", "fp32": "float32"}[precision(job)],
        "router_compute_precision": "float32",
    }
    if older:
        return {**found, "minimum_os_option": IOS17, "function": MAIN}
    return {**found, "default_function": ROUTER_ENTRY}


def write_package(
    job: Job,
    kit: SimpleNamespace,
    path: Path,
    entries: list[str],
    *,
    multifunction: bool,
    progress: Progress = lambda _: None,
) -> None:
    """One package with these entries as functions, or with a single one as ``main``."""
    opset = kit.target.iOS18 if multifunction else kit.target.iOS17
    store = Store(job, kit, shared=multifunction)
    functions: dict[str, Any] = {}
    with quiet(), _fresh_names(kit):
        for number, entry in enumerate(entries, start=1):
            progress(f"function {number}/{len(entries)}: {entry}")
            if entry == ROUTER_ENTRY:
                made = router_function(store, opset)
            else:
                made = route_function(store, job.canet.space.named(entry), precision(job), opset)
            functions[entry if multifunction else MAIN] = made
        progress("write the weights")
        write_mlpackage(
            path,
            functions,
            kit,
            specification=9 if multifunction else 8,
            metadata={ROUTES_KEY: _route_table(job)},
            description=_description(job, entries),
        )


@contextmanager
def _fresh_names(kit: SimpleNamespace) -> Iterator[None]:
    """coremltools counts names over the whole process; a file's should not depend on what came before."""
    kit.mb.name_count.clear()
    try:
        yield
    finally:
        kit.mb.name_count.clear()


def _route_table(job: Job) -> str:
    """What an app needs to use the package without its manifest."""
    space = job.canet.space
    table = {
        "router": ROUTER_ENTRY,
        "routes": [{"id": space.id_of(route), "name": route.entry} for route in job.routes],
        "points": list(POINTS) if job.canet.router is not None else [],
        "length": job.canet.supernet.config.length,
        "items": job.canet.supernet.config.items,
        "k": job.k,
        "seen": job.seen,
    }
    return json.dumps(table, separators=(",", ":"))


def _description(job: Job, entries: list[str]) -> str:
    if len(entries) == 1:
        return f"CANet recommender, {entries[0]}, {job.quantization}"
    return f"CANet recommender: a router and {len(entries) - 1} submodels, {job.quantization}"


def _full_model_alone(job: Job, kit: SimpleNamespace, out_dir: Path, files: dict[str, str]) -> int:
    """Bytes of the largest route without router and siblings; written aside when it is not exported."""
    largest: Route = job.canet.space.largest
    if largest.entry in files:
        package = open_mlpackage(out_dir / files[largest.entry])
        return alone_bytes(package, MAIN if files[largest.entry] != MODEL_FILE else largest.entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "largest.mlpackage"
        write_package(job, kit, path, [largest.entry], multifunction=job.minimum_os != IOS17)
        return package_bytes(path)
