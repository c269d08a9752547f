"""What each exported route costs on a device: the table that budgets can be kept in, instead of MFLOPs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from canet_mobile.errors import UsageError
from canet_mobile.machine import describe_machine
from canet_mobile.package.package import Package
from canet_mobile.replay.device import ROUTER, Sequences, open_device, run_entry, run_router, warm_up
from canet_mobile.replay.report import report_head

CALLS = 50  # of every entry, after its warm-up


def require_measurable(package: Package) -> None:
    """Refuse a package whose times on this machine would be of no use.

    Raises:
        UsageError: the package has no router, so there is nothing to keep a budget with; or it holds some of
            the routes only, and a budget needs the cost of each; or it is a Core ML package and this is no
            Mac, so that an interpreter would run it.
    """
    if package.manifest.target == "coreml" and sys.platform != "darwin":
        raise UsageError(
            "--costs-out: only a Mac runs Core ML; the times of the reference interpreter say nothing",
            where=package.source,
            fix="measure on a Mac, or another target's package of the same run",
        )
    if not package.has_router:
        raise UsageError(
            "--costs-out: the package has no router, so nothing could be chosen by the costs of its routes",
            where=package.source,
            fix="measure the package of a canet run",
        )
    if len(package.routes) < len(package.space):
        raise UsageError(
            f"--costs-out: the package holds {len(package.routes)} of {len(package.space)} routes, "
            "and a budget needs the cost of each",
            where=package.source,
            fix="canet-mobile export RUN --routes all",
        )


def costs_table(
    package: Package,
    seqs: Sequences,
    *,
    device: str = "host",
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Median milliseconds of the router and of every exported route, whether or not the router uses it.

    Each held-out history goes through all entries before the next one does, so that a busy moment of the
    device is a burden on all of them alike.

    Args:
        package: an opened package with a router.
        seqs: histories of held-out users, left-padded: [n, L] of the package's length; 50 of them at most are
            taken, fewer in turn until there are 50 calls.
        device: where to run.
        threads: threads of the runtime.
        progress: called after every history.

    Returns:
        A document of schemas/costs_table.schema.json.

    Raises:
        CanetError: the package cannot be measured here, see :func:`require_measurable`, or does not run.
    """
    require_measurable(package)
    running = open_device(package, device, threads=threads)
    seqs = seqs[np.arange(CALLS) % len(seqs)]
    entries = [route.entry for route in package.routes]
    for entry in (ROUTER, *entries):
        warm_up(running, entry, seqs[0])
    taken: dict[str, list[int]] = {entry: [] for entry in (ROUTER, *entries)}
    for seq in seqs:
        taken[ROUTER].append(run_router(running, seq)[1])
        for entry in entries:
            taken[entry].append(run_entry(running, entry, seq, package.k)[2])
        if progress is not None:
            progress(1)
    median = {entry: float(np.median(each)) / 1e6 for entry, each in taken.items()}
    return {
        **report_head("costs_table", package),
        "unit": "ms",
        "calls": CALLS,
        "router": median.pop(ROUTER),
        "routes": median,
        "device": {"name": running.name, "runtime": running.runtime, "threads": running.threads},
        "machine": describe_machine(),
    }
