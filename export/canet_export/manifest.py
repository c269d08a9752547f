"""What stands beside the model file: manifest.json, items.csv and golden.jsonl."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from canet_export.executorch import MINIMUM_OS, ExportResult
from canet_export.graph import ROUTER_ENTRY, Seen
from canet_mobile import __version__
from canet_mobile.evaluate.costs import route_costs, router_executed_mflops, router_paper_mflops
from canet_mobile.files import MANIFEST, describe_files, sha256_file, write_json
from canet_mobile.model.canet import Canet
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS
from canet_mobile.schema import validate

if TYPE_CHECKING:
    from canet_mobile.data.dataset import Dataset

ITEMS_FILE = "items.csv"
GOLDEN_FILE = "golden.jsonl"


def write_items(path: Path, dataset: Dataset) -> None:
    """Write ``items.csv``: index (1..V), the log's own id, and the title (empty when unknown)."""
    table = dataset.item_table().sort("index")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "item_id", "title"])
        writer.writerows(table.select("index", "item_id", "title").iter_rows())


@torch.inference_mode()
def golden_rows(
    reference: Canet,
    routes: Sequence[Route],
    histories: NDArray[np.int32],
    k: int,
    seen: Seen,
    name: str,
) -> list[dict[str, Any]]:
    """Two rows per route: a one-item history, and a whole one that the router sends to that route if any.

    Args:
        reference: PyTorch, with the package's integers if it has any, and with the package's router.
        routes: the exported submodels.
        histories: held-out users, [n, L] int32, n >= 1, left-padded.
        k: items per row.
        seen: the package's policy.
        name: ``pytorch_fp32`` or ``pytorch_same_integers``.
    """
    chosen = reference.route(torch.from_numpy(histories).long()).numpy()
    rows = []
    for number, route in enumerate(routes):
        single = np.zeros_like(histories[0])
        single[-1] = histories[number % len(histories), -1]
        routed = np.flatnonzero(chosen == reference.space.id_of(route))
        whole = histories[routed[0] if len(routed) else number % len(histories)]
        rows += [_golden_row(reference, route, history, k, seen, name) for history in (single, whole)]
    return rows


def _golden_row(
    reference: Canet, route: Route, history: NDArray[np.int32], k: int, seen: Seen, name: str
) -> dict[str, Any]:
    seq = torch.from_numpy(history[None]).long()
    scores = reference.supernet.scores(reference.supernet.sliced(seq, route)[:, -1])
    if seen == "exclude":
        scores = scores.scatter(1, seq, PAD_CLASS_BIAS)
    best = scores.topk(k)
    return {
        "input": history.tolist(),
        "route": int(reference.route(seq)),
        "entry": route.entry,
        "scores": best.values[0].tolist(),
        "ids": best.indices[0].tolist(),
        "reference": name,
    }


def write_golden(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``golden.jsonl``, each row checked against its schema."""
    for number, row in enumerate(rows, start=1):
        validate(row, "golden", where=f"{path}, line {number}")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_manifest(
    directory: Path,
    canet: Canet,
    routes: Sequence[Route],
    result: ExportResult,
    *,
    target: str,
    quantization: str,
    k: int,
    seen: Seen,
    dataset: dict[str, str],
    checkpoint: dict[str, str],
) -> dict[str, Any]:
    """Write ``manifest.json`` of a package whose other files stand in ``directory`` already.

    Args:
        directory: the package.
        canet: the model, for its sizes and costs.
        routes: the exported submodels.
        result: of the exporter.
        target: for example ``executorch``.
        quantization: ``fp32`` or ``int8``.
        k: items per answer.
        seen: the policy inside the graphs.
        dataset: name, content_hash, directory.
        checkpoint: run, sha256.

    Returns:
        The document.

    Raises:
        CanetError: it does not fit its schema.
    """
    config, space = canet.supernet.config, canet.space
    costs = route_costs(config.items, config.length, space, in_projection=config.in_projection)
    exported = sorted(space.id_of(route) for route in routes)
    document: dict[str, Any] = {
        "schema_version": 1,
        "kind": "package",
        "name": dataset["name"],
        "created_by": f"canet-mobile {__version__}",
        "target": target,
        "quantization": quantization,
        "model_file": result.model_file,
        "exporter": result.exporter,
        "minimum_os": MINIMUM_OS,
        "files": describe_files(directory, [result.model_file, ITEMS_FILE, GOLDEN_FILE]),
        "input": {
            "name": "seq",
            "shape": [1, config.length],
            "dtype": "int32",
            "padding": "left",
            "pad_id": 0,
        },
        "outputs": {
            "router": {"route": {"shape": [1], "dtype": "int64"}},
            "route": {
                "scores": {"shape": [1, k], "dtype": "float32"},
                "ids": {"shape": [1, k], "dtype": "int64"},
            },
        },
        "items": config.items,
        "length": config.length,
        "k": k,
        "seen": seen,
        "space": space.to_json(),
        "router": _router(canet),
        "routes": [costs[route_id] for route_id in exported],
        "sizes": result.sizes.to_json(),
        "delegation": [row.to_json() for row in result.delegation],
        "item_map_sha256": sha256_file(directory / ITEMS_FILE),
        "dataset": dataset,
        "checkpoint": checkpoint,
        "accuracy": None,
    }
    validate(document, "manifest", where=directory / MANIFEST)
    write_json(directory / MANIFEST, document)
    return document


def _router(canet: Canet) -> dict[str, Any]:
    """The router's entry, table and costs; a plain SASRec has nothing to route and pays nothing."""
    if canet.router is None:
        return {"entry": ROUTER_ENTRY, "table": None, "paper_mflops": 0.0, "executed_mflops": 0.0}
    length, routes = canet.supernet.config.length, len(canet.space)
    return {
        "entry": ROUTER_ENTRY,
        "table": canet.router.config.table,
        "paper_mflops": router_paper_mflops(length, routes),
        "executed_mflops": router_executed_mflops(length, routes),
    }
