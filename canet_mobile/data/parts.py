"""A folder of Parquet files, as Spark and its kin write it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from canet_mobile.data.names import counted
from canet_mobile.errors import CanetError

PARQUET = b"PAR1"
_NAMED = 3
_LAKES = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "metadata/*.metadata.json": "Iceberg"}


def parquet_parts(folder: Path, note: Callable[[str], None]) -> tuple[Path, ...]:
    """The Parquet files of a folder in sorted order, told by their first bytes, not by their names.

    What Spark hides (names that begin with ``.`` or ``_``, but for partitions) is left out, and so is what is
    no Parquet; both are named.

    Raises:
        CanetError: there is none, one is named .parquet and is none, or one stands outside the partitions.
    """
    _refuse_lake(folder)
    files = _files(folder)
    shown = [part for part in files if not _hidden(part.relative_to(folder))]
    found = [part for part in shown if _starts(part)]
    for part in shown:
        if part not in set(found) and part.suffix.lower() == ".parquet":
            raise CanetError(
                "truncated or damaged Parquet (it does not start with PAR1)", where=part, fix="write it again"
            )
    others = [part for part in files if part not in set(found) and not _by_product(part)]
    if not found:
        held = f"; it holds {_listed(others, folder)}" if others else ""
        raise CanetError(
            f"the folder holds no .parquet file{held}", where=folder, fix="name a file, or the right folder"
        )
    if others:
        note(f"note: {counted(len(others), 'file')} of {folder} not read: {_listed(others, folder)}")
    _refuse_outsiders(found, folder)
    return tuple(found)


def _files(folder: Path) -> list[Path]:
    """Every file below, in sorted order; a linked folder is one of its own, but for one that leads back."""
    found: list[Path] = []
    seen: set[Path] = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        place = Path(name)
        if place.resolve() in seen:
            folders.clear()
            continue
        seen.add(place.resolve())
        found += [place / file for file in files if (place / file).is_file()]
    return sorted(found)


def _refuse_lake(folder: Path) -> None:
    """Refuse tables that keep files of rows which are no longer in them."""
    for name, what in _LAKES.items():
        if any(folder.glob(name)):
            raise CanetError(
                f"is a {what} table: its files hold rows that were deleted or replaced, too",
                where=folder,
                fix="write what the table says now as plain Parquet, and import that",
            )


def _refuse_outsiders(found: Sequence[Path], folder: Path) -> None:
    """Name the first part that does not stand in the partitions that most stand in."""
    keys = [_keys(part.relative_to(folder)) for part in found]
    wanted = max(keys, key=lambda its: (keys.count(its), len(its)))
    for part, its in zip(found, keys, strict=True):
        if its != wanted:
            raise CanetError(
                f"stands in {_partition(its)}, other files in {_partition(wanted)}",
                where=part,
                fix="move it, or import one kind",
            )


def scan_parts(path: Path, files: Sequence[Path]) -> pl.LazyFrame:
    """All parts as one LazyFrame; the values of partitions are text, as they stand in the path."""
    keys = _keys(files[0].relative_to(path)) if path.is_dir() else ()
    return pl.scan_parquet(
        list(files),
        glob=False,
        hive_partitioning=bool(keys),
        hive_schema={key: pl.String() for key in keys} or None,
        try_parse_hive_dates=False,
    )


def _partition(keys: Sequence[str]) -> str:
    return "/".join(f"{key}=…" for key in keys) or "no partition"


def _keys(part: Path) -> tuple[str, ...]:
    return tuple(name.partition("=")[0] for name in part.parts[:-1] if "=" in name)


def _hidden(part: Path) -> bool:
    return any(name[0] == "." or (name[0] == "_" and "=" not in name) for name in part.parts)


def _by_product(part: Path) -> bool:
    """What writers leave beside their parts: success marks, checksums, summaries of footers."""
    return part.name in ("_SUCCESS", "_metadata", "_common_metadata", ".DS_Store") or part.suffix == ".crc"


def _starts(part: Path) -> bool:
    with part.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def _listed(files: Sequence[Path], folder: Path) -> str:
    names = [part.relative_to(folder).as_posix() for part in files[:_NAMED]]
    return ", ".join(names) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")
