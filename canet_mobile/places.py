"""Where runs and data sets are found by what is in them: a hash is a name that a move does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from canet_mobile.files import MANIFEST, manifest_of

RUNS, DATASETS = Path("runs"), Path("datasets")


def dataset_places(*beside: Path) -> tuple[Path, ...]:
    """Folders that may hold data sets: ``datasets/`` here, and what stands beside the given artefacts."""
    return _distinct([DATASETS, *(place for path in beside for place in _around(path, DATASETS.name))])


def run_places(*beside: Path) -> tuple[Path, ...]:
    """Folders that may hold runs: ``runs/`` here, and what stands beside the given artefacts."""
    return _distinct([RUNS, *(place for path in beside for place in _around(path, RUNS.name))])


def _around(path: Path, name: str) -> list[Path]:
    """The folder that an artefact stands in, and folders of this name beside and up to two levels above it:
    ``packages/shop/onnx`` has ``runs`` beside ``packages``."""
    above = list(path.resolve().parents)[:3]
    return [above[0], *(folder / name for folder in above)]


def find_dataset(content_hash: str, places: Sequence[Path]) -> Path | None:
    """The folder of the data set with this content hash in one of the places; None where there is none."""
    return _first("dataset", places, lambda manifest: manifest["content_hash"] == content_hash)


def find_run(checkpoint_sha256: str, places: Sequence[Path]) -> Path | None:
    """The folder of the finished run whose weights have this SHA-256; None where there is none."""
    return _first(
        "run", places, lambda manifest: manifest["checkpoints"]["model"]["sha256"] == checkpoint_sha256
    )


def _first(kind: str, places: Sequence[Path], fits: Callable[[dict[str, Any]], bool]) -> Path | None:
    for place in places:
        for manifest_path in sorted(place.glob(f"*/{MANIFEST}")):
            manifest = manifest_of(manifest_path.parent)
            try:
                if manifest is not None and manifest.get("kind") == kind and fits(manifest):
                    return manifest_path.parent
            except (KeyError, TypeError):  # unfinished, or damaged: not the one
                continue
    return None


def _distinct(places: Iterable[Path]) -> tuple[Path, ...]:
    found: dict[Path, Path] = {}
    for place in places:
        found.setdefault(place.resolve(), place)
    return tuple(found.values())


def listed(places: Sequence[Path]) -> str:
    """The places in words, for an error: the first, and of the others those that exist."""
    return ", ".join(f"{place}/" for n, place in enumerate(places) if n == 0 or place.is_dir())
