"""What stands beside the model file: manifest.json, items.csv and golden.jsonl."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from canet_export.floors import FLOORS
from canet_export.graph import ROUTER_ENTRY
from canet_export.job import ExportResult, Job
from canet_export.lengths import route_at_lengths, router_at_lengths
from canet_export.measured import Measured, unmeasured_points
from canet_mobile import __version__
from canet_mobile.files import MANIFEST, describe_files, sha256_file, write_json, write_text
from canet_mobile.model.costs import route_costs, router_executed_mflops, router_paper_mflops
from canet_mobile.model.points import BALANCED, POINT_INPUT, POINTS
from canet_mobile.model.space import Route
from canet_mobile.package.lengths import cut_to, held, shortest
from canet_mobile.package.manifest import GOLDEN as GOLDEN_FILE
from canet_mobile.package.manifest import ITEM_MAP as ITEMS_FILE
from canet_mobile.package.manifest import SCHEMA_VERSION
from canet_mobile.replay.reference import route_scores, routes_at
from canet_mobile.schema import validate

if TYPE_CHECKING:
    from canet_mobile.data.dataset import Dataset

GOLDEN_REFERENCES = {
    "fp32": "pytorch_fp32",
    "fp16": "pytorch_same_halves",
    "int8": "pytorch_same_integers",
    "int4": "pytorch_same_integers",
}


def write_items(path: Path, dataset: Dataset) -> None:
    """Write ``items.csv``: index (1..V), the log's own id, and the title (empty when unknown).

    Fields are quoted where CSV asks for it. Python before 3.13 leaves a bare CR unquoted, which every reader,
    Python's own included, takes for the end of a row: then all text is quoted.
    """
    table = dataset.item_table().sort("index").select("index", "item_id", "title")
    returns = table.select(pl.any_horizontal(pl.col("item_id", "title").str.contains("\r").any())).item()
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)
        writer.writerow(table.columns)
        writer.writerows(table.iter_rows())


@torch.inference_mode()
def golden_rows(job: Job, histories: NDArray[np.int32]) -> list[dict[str, Any]]:
    """Rows of every route: a one-item history, and a whole one that the router sends to that route if any, at
    some operating point; and as many items as each length holds that neither of them asks.

    Args:
        job: what is exported; the rows are answered by its reference.
        histories: held-out users, [n, L] int32, n >= 1, left-padded.
    """
    reference = job.reference
    chosen = np.stack([routes_at(reference, histories, point) for point in range(len(POINTS))])
    rows = []
    for number, route in enumerate(job.routes):
        single = np.zeros_like(histories[0])
        single[-1] = histories[number % len(histories), -1]
        routed = np.flatnonzero((chosen == reference.space.id_of(route)).any(0))
        whole = histories[routed[0] if len(routed) else number % len(histories)]
        # Each length is asked once: where nobody's history is as long, it is repeated until it is.
        items = np.resize(whole[whole > 0], len(whole))
        asked = {shortest(job.lengths, held(history)) for history in (single, whole)}
        repeated = [
            cut_to(items, length) for length in job.lengths if length not in asked and len(job.lengths) > 1
        ]
        rows += [_golden_row(job, route, history) for history in (single, *repeated, whole)]
    return rows


def _golden_row(job: Job, route: Route, history: NDArray[np.int32]) -> dict[str, Any]:
    seqs = history[None]
    best = route_scores(job.reference, seqs, route, job.seen)[0].topk(job.k)
    return {
        "input": history.tolist(),
        "routes": [int(routes_at(job.reference, seqs, point)[0]) for point in range(len(POINTS))],
        "entry": route.entry,
        "scores": best.values.tolist(),
        "ids": best.indices.tolist(),
        "reference": GOLDEN_REFERENCES[job.quantization],
    }


def write_golden(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``golden.jsonl``, each row checked against its schema."""
    for number, row in enumerate(rows, start=1):
        validate(row, "golden", where=f"{path}, line {number}")
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_manifest(
    directory: Path,
    job: Job,
    result: ExportResult,
    *,
    target: str,
    higher_precision: Sequence[str],
    dataset: dict[str, str],
    checkpoint: dict[str, str],
    measured: Measured | None,
) -> dict[str, Any]:
    """Write ``manifest.json`` of a package whose other files stand in ``directory`` already.

    Args:
        directory: the package.
        job: what was exported.
        result: of the exporter.
        target: for example ``executorch``.
        higher_precision: tensors that the preset would have quantized further.
        dataset: name, content_hash. No path: a package travels, the folders do not.
        checkpoint: sha256.
        measured: on held-out users, None when nothing was.

    Returns:
        The document.

    Raises:
        CanetError: it does not fit its schema.
    """
    canet, k, index = job.canet, job.k, result.index_dtype
    config, space = canet.supernet.config, canet.space
    costs = route_costs(config.items, config.length, space, in_projection=config.in_projection)
    integers = job.integers
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "package",
        "name": dataset["name"],
        "created_by": f"canet-mobile {__version__}",
        "target": target,
        "quantization": job.quantization,
        "model_file": result.model_file,
        "exporter": result.exporter,
        "minimum_os": result.minimum_os,
        "files": describe_files(directory, [*result.files, ITEMS_FILE, GOLDEN_FILE]),
        "input": {
            "name": "seq",
            "shape": [1, config.length],
            "dtype": "int32",
            "padding": "left",
            "pad_id": 0,
        },
        "outputs": {
            "router": {"route": {"shape": [1], "dtype": index}},
            "route": {
                "scores": {"shape": [1, k], "dtype": "float32"},
                "ids": {"shape": [1, k], "dtype": index},
            },
        },
        "items": config.items,
        "length": config.length,
        "lengths": list(job.lengths),
        "k": k,
        "seen": job.seen,
        "space": space.to_json(),
        "router": _router(job),
        "routes": [
            costs[space.id_of(route)] | {"shorter": route_at_lengths(job, space.id_of(route))}
            for route in job.routes
        ],
        "operating_points": _operating_points(job, measured),
        "default_point": POINTS[BALANCED] if job.has_router else None,
        "interface": result.interface | ({} if job.plain else {"point_input": POINT_INPUT}),
        "runtime": {**FLOORS[target].to_json(), **result.runtime},
        "parts": [{"name": name, "entries": list(entries)} for name, entries in result.parts.items()],
        "integers": None
        if integers is None
        else {
            "sha256": integers.sha256,
            "tensors": len(integers.tensors),
            "higher_precision": sorted(higher_precision),
        },
        "sizes": asdict(result.sizes),
        "delegation": [row.to_json() for row in result.delegation],
        "item_map_sha256": sha256_file(directory / ITEMS_FILE),
        "dataset": dataset,
        "checkpoint": checkpoint,
        "accuracy": None if measured is None else measured.accuracy(),
    }
    validate(document, "manifest", where=directory / MANIFEST)
    write_json(directory / MANIFEST, document)
    return document


def _router(job: Job) -> dict[str, Any]:
    """The router's entry, table and costs; a plain SASRec or graph has nothing to route and pays nothing."""
    canet = job.canet
    if canet.router is None or not job.has_router:
        return {
            "entry": ROUTER_ENTRY,
            "table": None,
            "paper_mflops": 0.0,
            "executed_mflops": 0.0,
            "shorter": router_at_lengths(job),
        }
    length, routes = canet.supernet.config.length, len(canet.space)
    return {
        "entry": ROUTER_ENTRY,
        "table": canet.router.config.table,
        "paper_mflops": router_paper_mflops(length, routes),
        "executed_mflops": router_executed_mflops(length, routes),
        "shorter": router_at_lengths(job),
    }


def _operating_points(job: Job, measured: Measured | None) -> list[dict[str, Any]]:
    if not job.has_router:
        return []
    return unmeasured_points() if measured is None else measured.operating_points()
