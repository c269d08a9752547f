"""The fields that every report on a package begins with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from canet_mobile import __version__
from canet_mobile.files import shown_path
from canet_mobile.package.package import Package


def describe_package(package: Package) -> dict[str, Any]:
    """What a report says about the package it is about."""
    manifest = package.manifest
    return {
        "name": package.name,
        "path": shown_path(package.source),
        "sha256": package.sha256,
        "target": manifest.target,
        "quantization": package.quantization,
        "seen": manifest.seen,
        "k": package.k,
        "dataset_hash": manifest.dataset.content_hash,
        "checkpoint_sha256": manifest.checkpoint_sha256,
    }


def report_head(kind: str, package: Package) -> dict[str, Any]:
    """The fields every report begins with."""
    return {
        "schema_version": 1,
        "kind": kind,
        "created_by": f"canet-mobile {__version__}",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "package": describe_package(package),
    }
