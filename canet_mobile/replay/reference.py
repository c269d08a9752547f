"""The same users through PyTorch: what a package is compared with, and where model and users come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS
from canet_mobile.package.package import Package
from canet_mobile.places import dataset_places, listed, run_places

if TYPE_CHECKING:
    from canet_export.job import Job
    from canet_mobile.data.dataset import Dataset
    from canet_mobile.run.directory import Run

ROWS = 128  # histories per batch: their scores are [ROWS, V+1]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """PyTorch's answers: routes [n] int64, scores [n, k] float32, ids [n, k] int64."""

    routes: Ints
    scores: NDArray[np.float32]
    ids: Ints


@torch.inference_mode()
def route_scores(canet: Canet, seqs: NDArray[np.int32], route: Route, seen: str) -> Tensor:
    """Scores of every class from the sliced submodel, under the package's seen policy.

    Args:
        canet: in eval mode.
        seqs: left-padded histories [n, L] int32, few enough that [n, V+1] floats fit in memory.
        route: which submodel.
        seen: ``keep``, or ``exclude``: the items of the input get the score of padding, as in the package.

    Returns:
        [n, V+1] float32; class 0 never wins.
    """
    inputs = torch.from_numpy(seqs).long()
    scores = canet.supernet.scores(canet.supernet.sliced(inputs, route)[:, -1]).float()
    return scores.scatter(1, inputs, PAD_CLASS_BIAS) if seen == "exclude" else scores


def routed_lists(canet: Canet, seqs: NDArray[np.int32], k: int, seen: str, point: int = BALANCED) -> Lists:
    """Route every history with PyTorch's router and take the k best of that submodel."""
    return lists_at(canet, seqs, k, seen, [point])[0]


def package_lists(canet: Canet, package: Package, seqs: NDArray[np.int32], point: int = BALANCED) -> Lists:
    """What the checkpoint of a package answers with its routes, list length and seen policy."""
    return routed_lists(as_exported(canet, package), seqs, package.k, package.manifest.seen, point)


@torch.inference_mode()
def lists_at(
    canet: Canet, seqs: NDArray[np.int32], k: int, seen: str, points: Sequence[int]
) -> tuple[Lists, ...]:
    """:func:`routed_lists` at several operating points; a submodel that they share answers a history once."""
    n = len(seqs)
    found = tuple(
        Lists(routes_at(canet, seqs, point), np.zeros((n, k), np.float32), np.zeros((n, k), np.int64))
        for point in points
    )
    chosen = np.stack([lists.routes for lists in found])
    for route_id in np.unique(chosen):
        members = np.flatnonzero((chosen == route_id).any(0))
        for start in range(0, len(members), ROWS):
            rows = members[start : start + ROWS]
            best = route_scores(canet, seqs[rows], canet.space.routes[route_id], seen).topk(k)
            scores, ids = best.values.numpy(), best.indices.numpy()
            for lists in found:
                here = lists.routes[rows] == route_id
                lists.scores[rows[here]], lists.ids[rows[here]] = scores[here], ids[here]
    return found


@torch.inference_mode()
def routes_at(canet: Canet, seqs: NDArray[np.int32], point: int) -> Ints:
    """PyTorch's route ids [n] of histories [n, L] at an operating point."""
    parts = (torch.from_numpy(seqs[start : start + ROWS]) for start in range(0, len(seqs), ROWS))
    return np.concatenate([canet.route(part.long(), point).numpy() for part in parts])


def as_exported(canet: Canet, package: Package) -> Canet:
    """The model with a router that chooses among the package's routes only, as its exporter leaves it."""
    from canet_export.graph import restricted

    return restricted(canet, [route.id for route in package.routes])


def exported_job(package: Package, canet: Canet) -> Job:
    """What the exporter was given when it wrote this package from the checkpoint ``canet``.

    Raises:
        CanetError: quantizing the checkpoint does not give the integers that the manifest speaks of.
    """
    from canet_export.job import Job
    from canet_mobile.model.integers import quantize_model

    manifest = package.manifest
    model = as_exported(canet, package)
    integers = None
    if manifest.integers is not None:
        bits = 4 if package.quantization == "int4" else 8
        higher = frozenset(manifest.integers.higher_precision)
        integers = quantize_model(model, bits, higher=higher)  # type: ignore[arg-type]
        if integers.sha256 != manifest.integers.sha256:
            raise CanetError(
                f"the checkpoint's integers are {integers.sha256[:12]}…, the manifest says "
                f"{manifest.integers.sha256[:12]}…",
                where=package.source,
                fix="export the package again with this version of canet-mobile",
            )
    oldest = manifest.runtime.get("minimum_os_option")
    return Job(
        canet=model,
        integers=integers,
        quantization=manifest.quantization,
        routes=tuple(route.route for route in package.routes),
        k=package.k,
        seen=manifest.seen,
        split=bool(manifest.parts) and manifest.interface.style != "files",
        minimum_os=None if oldest is None else str(oldest),
        plain=manifest.interface.plain,
        lengths=package.lengths,
    )


def ranks_in_lists(ids: Ints, targets: NDArray[np.integer]) -> Ints:
    """Where each target stands in its list: ids [n, k], targets [n] -> [n] int64, MISS when it does not."""
    from canet_mobile.evaluate.metrics import MISS

    hits = ids == targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), MISS)


def overlap(found: Ints, expected: Ints, k: int) -> NDArray[np.float64]:
    """Share of the first k ids that two lists have in common: [n, >=k] twice -> [n] float64."""
    k = min(k, found.shape[1])
    share: NDArray[np.float64] = (found[:, :k, None] == expected[:, None, :k]).any(2).mean(1)
    return share


def find_checkpoint(package: Package, run_path: Path | None) -> tuple[Run, Canet] | None:
    """The run a package was exported from, and its model.

    Args:
        package: its manifest names the SHA-256 of the checkpoint.
        run_path: the run; None looks for it in ``runs/`` and beside the package, whatever its name, and
            returns None when it is not there.

    Raises:
        CanetError: ``run_path`` is not a run, or holds another checkpoint.
    """
    from canet_mobile.places import find_run as search
    from canet_mobile.run.directory import find_run, load_canet

    expected = package.manifest.checkpoint_sha256
    if run_path is None:
        found = search(expected, run_places(package.source))
        if found is None:
            return None
        run = find_run(found)
        return run, load_canet(run)
    run = find_run(run_path)
    if run.checkpoint_sha256 != expected:
        raise CanetError(
            f"its checkpoint is {run.checkpoint_sha256[:12]}…, "
            f"the package was exported from {expected[:12]}…",
            where=run.directory,
            fix="pass the run the package was exported from, or export this run",
        )
    return run, load_canet(run)


def missing_checkpoint(package: Package) -> str:
    """What was looked for and where, when :func:`find_checkpoint` finds nothing."""
    return (
        f"no run with the checkpoint {package.manifest.checkpoint_sha256[:12]}… in "
        f"{listed(run_places(package.source))}: name it with --run"
    )


def find_dataset(package: Package, data: Path | None, run: Run | None) -> Dataset:
    """The dataset a package was trained on: ``data``, else what the run knows, else found by its hash.

    Raises:
        CanetError: it is not there, or is another dataset than the package's.
    """
    from canet_mobile.data.dataset import load_dataset
    from canet_mobile.places import find_dataset as search

    expected = package.manifest.dataset
    short = f"{expected.content_hash[:12]}…"
    directory = data
    if directory is None:
        beside = [package.source] if run is None else [package.source, run.directory]
        known = [] if run is None else [run.dataset_directory.parent]
        places = (*known, *dataset_places(*beside))
        directory = search(expected.content_hash, places)
        if directory is None:
            raise CanetError(
                f"the package's dataset {expected.name!r} (content hash {short}) is not here; looked in "
                f"{listed(places)}",
                where=package.source,
                fix=f"pass the folder of the dataset {expected.name!r} with --data",
            )
    dataset = load_dataset(directory)
    if dataset.content_hash != expected.content_hash:
        raise CanetError(
            f"has the content hash {dataset.content_hash[:12]}…, the package's dataset {expected.name!r} "
            f"has {short}: item ids would not mean the same",
            where=directory,
            fix=f"pass the folder of the dataset {expected.name!r} with --data",
        )
    return dataset
