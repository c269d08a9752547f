"""Does a package compute what its checkpoint computes? (golden rows, weights, scores, routing, the task)

Levels. ``structural``: an fp32 package against the sliced PyTorch submodels. ``numeric``: an int8 package
against PyTorch with the same integers. ``task``: NDCG@10 of the package against PyTorch fp32. The golden rows
need no checkpoint and stand for all of it when none is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from canet_export.checks import LIMITS, Limits, check_golden, check_routes, check_users
from canet_export.length_checks import check_lengths
from canet_mobile.data.split import HeldOut
from canet_mobile.errors import CanetError, ParityError
from canet_mobile.machine import describe_machine
from canet_mobile.model.canet import Canet
from canet_mobile.package.lists import Check, Failure
from canet_mobile.package.package import Package, open_package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import RuntimeFailure, open_device
from canet_mobile.replay.documents import failure_of
from canet_mobile.replay.reference import exported_job
from canet_mobile.replay.report import report_head

NO_PACKAGE = (Code.PACKAGE_MISSING, Code.MANIFEST_MISSING, Code.NOT_A_PACKAGE)
SHOWN = 20  # failures spelled out in the error

Progress = Callable[[str], None]


def open_for_parity(path: Path) -> Package:
    """Open a package; a damaged one is a parity failure, a path that is no package is not.

    Raises:
        ParityError: a file of the package is missing, altered or inconsistent.
        Refused: there is no package.
    """
    try:
        return open_package(path)
    except Refused as error:
        if path.is_file() or error.code not in NO_PACKAGE:
            failure = ParityError(error.what, where=error.where, fix=error.fix)
            failure.code = error.code
            raise failure from error
        raise


def parity(
    package: Package,
    *,
    reference: Canet | None = None,
    queries: HeldOut | None = None,
    rows_per_route: int = 4,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Run every check that the inputs allow; all failures are collected.

    Args:
        package: an opened package.
        reference: the checkpoint it was exported from; None leaves the golden rows alone.
        queries: held-out users of its dataset; with None and a reference, weights are checked and no users.
        rows_per_route: histories per exported route, the first of them of one item.
        progress: told what is being done.

    Returns:
        A report by schemas/parity.schema.json; see :func:`require`.

    Raises:
        CanetError: the toolkit is missing, or the checkpoint does not give the manifest's integers.
    """
    limits = LIMITS[package.quantization]
    checks = []
    same = None
    if reference is not None:
        from canet_export.targets import TARGETS

        job = exported_job(package, reference)
        reference, same = job.canet, job.reference
        progress("weights")
        checks.append(TARGETS[package.manifest.target].check_stored(package.directory, job))
    try:
        device = open_device(package)
    except RuntimeFailure as error:
        checks.append(_run_failure("program", None, None, error))
        return _report(package, limits, checks, reference is not None)
    progress("golden rows")
    checks.append(check_golden(device, package, limits))
    if len(package.lengths) > 1:
        progress("lengths")
        checks.append(check_lengths(device, package))
    if reference is not None and same is not None and queries is not None:
        progress("routes")
        checks.extend(
            check_routes(
                device, package, same=same, queries=queries, limits=limits, rows_per_route=rows_per_route
            )
        )
        progress("users")
        checks.extend(
            check_users(device, package, reference=reference, same=same, queries=queries, limits=limits)
        )
    return _report(package, limits, checks, reference is not None)


def _report(package: Package, limits: Limits, checks: list[Check], has_checkpoint: bool) -> dict[str, Any]:
    failures = sorted((f for check in checks for f in check.failures), key=lambda f: -f.excess)
    rows = []
    for failure in failures:
        row = asdict(failure)
        rows.append({**row, "excess": None if np.isinf(failure.excess) else failure.excess})
    return {
        **report_head("parity", package),
        "machine": describe_machine(),
        "level": limits.level,
        "checkpoint": has_checkpoint,
        "passed": all(check.passed is not False for check in checks),
        "checks": [{k: v for k, v in asdict(check).items() if k != "failures"} for check in checks],
        "failures": rows,
    }


def require(report: dict[str, Any], where: object) -> None:
    """Raise when a report is not passed.

    Raises:
        ParityError: names the checks that failed and the failures, the worst first.
    """
    if report["passed"]:
        return
    failed = [check["name"] for check in report["checks"] if check["passed"] is False]
    rows = [failure_of(row) for row in report["failures"]]
    lines = [str(row) for row in rows[:SHOWN]]
    if len(rows) > SHOWN:
        lines.append(f"and {len(rows) - SHOWN} more (all of them with --json)")
    raise ParityError(
        f"parity failed ({', '.join(failed)}), {len(rows)} difference(s), the worst first:\n  "
        + "\n  ".join(lines),
        where=where,
        fix="export the package again from its checkpoint; if that fails too, it is a bug of the exporter",
    )


def _run_failure(check: str, entry: str | None, case: str | None, error: CanetError) -> Check:
    failure = Failure(check, entry, case, "call", "an answer", error.what)
    return Check(check, False, 1, None, None, "the package does not run", (failure,))
