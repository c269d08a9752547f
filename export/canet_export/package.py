"""From a run to a package: quantize, export, describe, check; a package that fails its check is not kept."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from canet_export.executorch import export_executorch
from canet_export.graph import Seen, restricted
from canet_export.integers import dequantized, fold_residuals, quantize_model
from canet_export.manifest import (
    GOLDEN_FILE,
    ITEMS_FILE,
    golden_rows,
    write_golden,
    write_items,
    write_manifest,
)
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import UsageError
from canet_mobile.files import MANIFEST, atomic_file, staged_directory
from canet_mobile.model.canet import Canet
from canet_mobile.model.space import Route
from canet_mobile.replay.package import open_package
from canet_mobile.replay.parity import parity, require
from canet_mobile.train.run import Run

Quantization = Literal["fp32", "int8"]
GOLDEN_USERS = 512
REFERENCES = {"fp32": "pytorch_fp32", "int8": "pytorch_same_integers"}


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Args:
        quantization: ``int8`` (one integer supernet, one scale per output row) or ``fp32``.
        routes: the submodels; None exports all. With fewer, the router chooses among these only.
        k: items per answer.
        seen: ``exclude`` removes the items of the input inside the graph.
    """

    quantization: Quantization = "int8"
    routes: tuple[Route, ...] | None = None
    k: int = 20
    seen: Seen = "keep"


def export_package(
    run: Run,
    canet: Canet,
    dataset: Dataset,
    options: ExportOptions,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export a run as a package for ExecuTorch.

    Args:
        run: where the model comes from; the manifest names it.
        canet: its model.
        dataset: its data set; the item map and the golden rows come from it.
        options: what to export.
        out: the package directory to make.
        force: replace a package that stands there.
        progress: told what is being done.

    Returns:
        The manifest.

    Raises:
        UsageError: more items are asked for than there are.
        ParityError: the package does not compute what PyTorch computes; nothing is left behind.
        CanetError: the toolkit is missing, or ``out`` may not be written.
    """
    space, config = canet.space, canet.supernet.config
    _check_k(options, config.items, config.length)
    chosen = set(options.routes or space.routes)
    routes = [route for route in space if route in chosen]
    model = restricted(canet, [space.id_of(route) for route in routes])
    with staged_directory(out, force=force) as stage:
        integers = quantize_model(model) if options.quantization == "int8" else None
        result = export_executorch(model, integers, routes, options.k, stage, progress, seen=options.seen)
        progress("write the golden rows and the item map")
        reference = fold_residuals(model) if integers is None else dequantized(model, integers)
        rows = golden_rows(
            reference,
            routes,
            _golden_histories(dataset, config.length),
            options.k,
            options.seen,
            REFERENCES[options.quantization],
        )
        write_golden(stage / GOLDEN_FILE, rows)
        write_items(stage / ITEMS_FILE, dataset)
        manifest = write_manifest(
            stage,
            model,
            routes,
            result,
            target="executorch",
            quantization=options.quantization,
            k=options.k,
            seen=options.seen,
            dataset={
                "name": dataset.name,
                "content_hash": dataset.content_hash,
                "directory": str(dataset.directory),
            },
            checkpoint={"run": run.directory.name, "sha256": run.checkpoint_sha256},
        )
        progress("run the golden rows through the package")
        require(parity(open_package(stage)), where=out)
    return manifest


def _check_k(options: ExportOptions, items: int, length: int) -> None:
    most = items - length if options.seen == "exclude" else items
    if options.k > most:
        left = f" besides the {length} of a full input" if options.seen == "exclude" else ""
        raise UsageError(
            f"--k {options.k}: there are only {max(most, 0)} items{left}", fix=f"--k {max(most, 1)}"
        )


def _golden_histories(dataset: Dataset, length: int) -> NDArray[np.int32]:
    queries = held_out(dataset, "validation", limit=GOLDEN_USERS)
    return queries.inputs(slice(None), length)


def zip_package(directory: Path, target: Path) -> Path:
    """Write a package as one zip, uncompressed so that a phone can map the model file, manifest first."""
    names = sorted((path.name for path in directory.iterdir()), key=lambda name: (name != MANIFEST, name))
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), (directory / name).read_bytes())
    return target
