"""What a measurement ran on, and how much memory it took."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from canet_mobile import __version__
from canet_mobile.replay.package import Package


def cpu_model() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
    """Python, system, processor and its number of cores usable here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": usable,
    }


def describe_package(package: Package) -> dict[str, Any]:
    """What a report says about the package it is about."""
    manifest = package.manifest
    return {
        "name": package.name,
        "path": str(package.source),
        "sha256": package.sha256,
        "target": manifest["target"],
        "quantization": package.quantization,
        "seen": manifest["seen"],
        "k": package.k,
        "dataset_hash": manifest["dataset"]["content_hash"],
        "checkpoint_sha256": manifest["checkpoint"]["sha256"],
    }


def report_head(kind: str, package: Package) -> dict[str, Any]:
    """The fields every report begins with."""
    return {
        "schema_version": 1,
        "kind": kind,
        "created_by": f"canet-mobile {__version__}",
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "package": describe_package(package),
    }


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int | None:
    """The most resident memory this process ever had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
