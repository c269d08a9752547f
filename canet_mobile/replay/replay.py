"""Replay held-out users through a package on a device: accuracy, agreement with PyTorch, latency, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.data.lists import is_enough
from canet_mobile.errors import CanetError
from canet_mobile.evaluate.metrics import metric
from canet_mobile.machine import describe_machine, peak_resident_bytes, resident_bytes
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.package import Package
from canet_mobile.replay.device import (
    ROUTER,
    Device,
    Recommendation,
    Sequences,
    open_device,
    run_entry,
    run_router,
    warm_up,
)
from canet_mobile.replay.reference import Lists, overlap, ranks_in_lists
from canet_mobile.replay.report import report_head

TOP = 10
METRICS = (f"ndcg@{TOP}", f"recall@{TOP}")
PERCENTILES = (50, 90, 99)

Progress = Callable[[int], None]  # called with the number of users just finished
Targets = NDArray[np.int32]


def replay(
    package: Package,
    seqs: Sequences,
    targets: Targets,
    *,
    reference: Callable[[Sequences], Lists] | None = None,
    device: str = "host",
    threads: int = 1,
    point: int = BALANCED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the app's loop (router, then the entry it names) for every held-out user.

    A method is loaded and warmed up when the router first names it; that is reported apart and is in no
    latency.

    Args:
        package: an opened package.
        seqs: histories of held-out users, left-padded: [n, L] of the package's length, at least one.
        targets: the item that each of them took next, [n].
        reference: histories -> PyTorch's lists, see :func:`~canet_mobile.replay.reference.package_lists`;
            asked when the package has answered, so that none of its memory is counted as the package's. None
            leaves PyTorch's columns empty.
        device: where to run.
        threads: threads of the runtime.
        point: operating point of the router, as :meth:`Package.point` gives it.
        progress: called after each user.

    Returns:
        The measured part of a report by schemas/replay.schema.json, with ``kind``, ``package`` and
        ``machine``; the caller adds ``data``.

    Raises:
        CanetError: the package does not run there, or the lists of this package are too short to measure.
    """
    seen = package.manifest.seen
    if not is_enough(package.k, TOP, items=package.items, length=package.length, seen=seen):
        raise CanetError(
            f"returns {package.k} items, {METRICS[0]} needs {TOP}",
            where=package.source,
            fix="export without --k",
        )
    if not len(seqs):
        raise CanetError("the dataset holds no held-out users")
    before = resident_bytes()
    running = open_device(package, device, threads=threads)
    answers, loads = _run(running, package, seqs, point, progress)
    after, peak = resident_bytes(), peak_resident_bytes()
    expected = None if reference is None else reference(seqs)
    found = Lists(
        np.array([a.route for a in answers]),
        np.stack([a.scores for a in answers]),
        np.stack([a.ids for a in answers]),
    )
    return {
        **report_head("replay", package),
        "device": {"name": running.name, "runtime": running.runtime, "threads": running.threads},
        "machine": describe_machine(),
        "point": POINTS[point] if package.has_router else None,
        "protocol": {"seen": seen, "k": package.k, "users": len(seqs)},
        "metrics": {
            "package": _accuracy(found, targets),
            "pytorch": None if expected is None else _accuracy(expected, targets),
        },
        "agreement": None if expected is None else _agreement(found, expected),
        "costs": _costs(package, found.routes),
        "latency_ms": _latency(answers),
        "load_ms": {
            "program": running.program_ms,
            "router": loads[ROUTER][0],
            "router_first_run": loads[ROUTER][1],
        },
        "memory_bytes": {"before_load": before, "after_replay": after, "process_peak": peak},
        "routes": _by_route(package, answers, found, expected, targets=targets, loads=loads),
    }


def _run(
    device: Device, package: Package, seqs: Sequences, point: int, progress: Progress | None
) -> tuple[list[Recommendation], dict[str, tuple[float, float]]]:
    """One answer per user; and (load ms, first-run ms) of every entry that was used."""
    loads = {ROUTER: warm_up(device, ROUTER, seqs[0])}
    answers = []
    for seq in seqs:
        route, router_ns = run_router(device, seq, point)
        entry = package.route(route).entry
        if entry not in loads:
            loads[entry] = warm_up(device, entry, seq)
        scores, ids, submodel_ns = run_entry(device, entry, seq, package.k)
        answers.append(Recommendation(route, scores, ids, router_ns, submodel_ns))
        if progress is not None:
            progress(1)
    return answers, loads


def _accuracy(
    lists: Lists, targets: Targets, rows: NDArray[np.int64] | slice = slice(None)
) -> dict[str, float]:
    ranks = ranks_in_lists(lists.ids[rows], targets[rows])
    return {name: float(metric(ranks, name).mean()) for name in METRICS}


def _agreement(found: Lists, expected: Lists) -> dict[str, float]:
    return {
        "router": float((found.routes == expected.routes).mean()),
        f"top{TOP}_overlap": float(overlap(found.ids, expected.ids, TOP).mean()),
    }


def _milliseconds(nanoseconds: list[int]) -> dict[str, float]:
    values = np.percentile(np.array(nanoseconds) / 1e6, PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}


def _latency(answers: list[Recommendation]) -> dict[str, dict[str, float]]:
    return {
        "router": _milliseconds([a.router_ns for a in answers]),
        "submodel": _milliseconds([a.submodel_ns for a in answers]),
        "total": _milliseconds([a.router_ns + a.submodel_ns for a in answers]),
    }


def _costs(package: Package, routes: NDArray[np.int64]) -> dict[str, Any]:
    """Mean cost per user, router included, beside the largest exported route alone."""
    used = [package.route(int(route)) for route in routes]
    router, largest = package.manifest.router, package.routes[-1]
    return {
        "paper_mflops": float(np.mean([r.paper_mflops for r in used])) + router.paper_mflops,
        "executed_mflops": float(np.mean([r.executed_mflops for r in used])) + router.executed_mflops,
        "largest": {
            "entry": largest.entry,
            "paper_mflops": largest.paper_mflops,
            "executed_mflops": largest.executed_mflops,
        },
    }


def _by_route(
    package: Package,
    answers: list[Recommendation],
    found: Lists,
    expected: Lists | None,
    *,
    targets: Targets,
    loads: dict[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    rows = []
    for route in package.routes:
        members = np.flatnonzero(found.routes == route.id)
        mine = [answers[n] for n in members]
        load_ms, first_ms = loads.get(route.entry, (None, None))
        rows.append(
            {
                "id": route.id,
                "entry": route.entry,
                "users": len(mine),
                "pytorch_users": None if expected is None else int((expected.routes == route.id).sum()),
                "paper_mflops": route.paper_mflops,
                "executed_mflops": route.executed_mflops,
                "metrics": _accuracy(found, targets, members) if mine else None,
                "load_ms": load_ms,
                "first_run_ms": first_ms,
                "latency_ms": _latency(mine) if mine else None,
            }
        )
    return rows
