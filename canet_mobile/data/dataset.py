"""A dataset on disk: one folder, one manifest, every history in one flat array.

Three files: ``manifest.json`` (schemas/dataset.schema.json), ``items.parquet`` (index, item_id, title,
count; row i is item i + 1) and ``sequences.parquet`` (user_id, items, and times when the log had any;
one row per history, oldest item first).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from canet_mobile import __version__
from canet_mobile.data.tables import read_parquet, write_parquet
from canet_mobile.errors import CanetError
from canet_mobile.files import MANIFEST, describe_files, read_json, staged_directory, verify_files, write_json
from canet_mobile.schema import validate

SCHEMA_VERSION = 1
ITEMS, SEQUENCES = "items.parquet", "sequences.parquet"
_AGAIN = "import the log again"
_HISTORIES_PER_SLICE = 200_000

Ints = NDArray[np.int64]
ItemIds = NDArray[np.int32]


@dataclass(frozen=True)
class Dataset:
    """A verified dataset.

    Attributes:
        directory: the folder it was loaded from.
        manifest: the folder's manifest.json.
        offsets: [N + 1] int64; history n is ``items[offsets[n]:offsets[n + 1]]``, oldest first.
        items: [interactions] int32, ids 1..V (0 is padding and never stored).
    """

    directory: Path
    manifest: dict[str, Any]
    offsets: Ints
    items: ItemIds

    @property
    def name(self) -> str:
        """The name given at import."""
        return self.manifest["name"]

    @property
    def num_items(self) -> int:
        """V: the largest item id."""
        return self.manifest["counts"]["items"]

    @property
    def num_histories(self) -> int:
        """N: the number of histories (users, or sessions when the log was cut into them)."""
        return len(self.offsets) - 1

    @property
    def content_hash(self) -> str:
        """SHA-256 over the histories and the item map (see `content_hash`)."""
        return self.manifest["content_hash"]

    def item_table(self) -> pl.DataFrame:
        """Read the items: index (1..V, int32), item_id (str), title (str or null), count (int64)."""
        return read_parquet(self.directory / ITEMS)

    def user_ids(self) -> list[str]:
        """Read the id of every history, [N]; session k of user u is called ``u#k``."""
        return read_parquet(self.directory / SEQUENCES, ["user_id"])["user_id"].to_list()

    def times(self) -> Ints | None:
        """Read the time of every interaction, [interactions] int64 microseconds since 1970, or None."""
        if not self.manifest["has_times"]:
            return None
        column = read_parquet(self.directory / SEQUENCES, ["times"])["times"]
        return column.explode().to_numpy()


@dataclass(frozen=True)
class Content:
    """What `write_dataset` puts into a folder.

    Attributes:
        offsets, items: as in `Dataset`.
        times: [interactions] int64 microseconds since 1970, or None.
        user_ids: [N] strings.
        item_ids: [V] strings; entry i names item i + 1.
        titles: [V] strings or nulls.
        users: how many users the histories come from (fewer than N when they are sessions).
    """

    offsets: Ints
    items: ItemIds
    times: Ints | None
    user_ids: pl.Series
    item_ids: pl.Series
    titles: pl.Series
    users: int


def content_hash(offsets: Ints, items: ItemIds, item_ids: Sequence[str] | pl.Series) -> str:
    """Hex SHA-256 over V, N, the offsets (int64), the items (int32) and the item map, little-endian.

    Equal hashes mean equal training data and equal meaning of every id, whatever file it came from.
    """
    digest = hashlib.sha256(np.array([len(item_ids), len(offsets) - 1], "<i8").tobytes())
    digest.update(np.ascontiguousarray(offsets, "<i8").tobytes())
    digest.update(np.ascontiguousarray(items, "<i4").tobytes())
    for item_id in item_ids:
        encoded = item_id.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def write_dataset(out: Path, content: Content, about: dict[str, Any], *, force: bool = False) -> Dataset:
    """Write a dataset folder: whole or not at all.

    Args:
        out: the folder to make.
        content: histories and items.
        about: the manifest fields that describe the import (name, sources, format, columns, time_unit,
            options, stages).
        force: replace a dataset that is there.

    Returns:
        The dataset, loaded from ``out``.

    Raises:
        CanetError: ``out`` exists, cannot be written, or there is no space left.
    """
    with staged_directory(out, force=force, kind="dataset") as stage:
        counts = np.bincount(content.items, minlength=len(content.item_ids) + 1)[1:]
        items = pl.DataFrame(
            {
                "index": np.arange(1, len(counts) + 1, dtype=np.int32),
                "item_id": content.item_ids.cast(pl.String),
                "title": content.titles.cast(pl.String),
                "count": counts.astype(np.int64),
            }
        )
        write_parquet(stage / ITEMS, items)
        _write_sequences(stage / SEQUENCES, content)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": "dataset",
            "name": about["name"],
            "created_by": f"canet-mobile {__version__}",
            "counts": {
                "histories": len(content.user_ids),
                "users": content.users,
                "items": len(content.item_ids),
                "interactions": len(content.items),
            },
            "has_times": content.times is not None,
            **{key: about[key] for key in ("sources", "format", "columns", "time_unit", "options", "stages")},
            "content_hash": content_hash(content.offsets, content.items, content.item_ids),
            "files": describe_files(stage, [ITEMS, SEQUENCES]),
        }
        validate(manifest, "dataset", where=out / MANIFEST)
        write_json(stage / MANIFEST, manifest)
    return load_dataset(out)


def load_dataset(directory: Path) -> Dataset:
    """Load a dataset folder after checking everything it says about itself.

    Raises:
        CanetError: the folder, a file, a checksum or an id is not what the manifest says; names which.
    """
    manifest = _read_manifest(directory)
    verify_files(directory, manifest["files"])
    items_path, sequences_path = directory / ITEMS, directory / SEQUENCES
    try:
        item_ids = read_parquet(items_path, ["item_id"])["item_id"]
        sequences = read_parquet(sequences_path, ["items"])["items"].cast(pl.List(pl.Int32))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CanetError(f"cannot be read ({error})", where=directory, fix=_AGAIN) from error
    flat = sequences.explode()
    for column, path in ((item_ids, items_path), (sequences, sequences_path), (flat, sequences_path)):
        if column.null_count():
            raise CanetError(f"column {column.name!r} holds nulls", where=path, fix=_AGAIN)
    offsets = np.concatenate([[0], np.cumsum(sequences.list.len().to_numpy(), dtype=np.int64)])
    items = flat.to_numpy()
    counts = manifest["counts"]
    for what, found, said, where in (
        ("items", len(item_ids), counts["items"], items_path),
        ("histories", len(sequences), counts["histories"], sequences_path),
        ("interactions", int(offsets[-1]), counts["interactions"], sequences_path),
    ):
        if found != said:
            raise CanetError(f"holds {found} {what}, the manifest says {said}", where=where, fix=_AGAIN)
    wrong = np.flatnonzero((items < 1) | (items > counts["items"]))
    if len(wrong):
        row = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise CanetError(
            f"history {row} holds item {items[wrong[0]]}, but ids run from 1 to {counts['items']}",
            where=sequences_path,
            fix=_AGAIN,
        )
    short = np.flatnonzero(np.diff(offsets) < 3)
    if len(short):
        raise CanetError(
            f"history {short[0]} holds fewer than 3 items: none would be left to train on",
            where=sequences_path,
            fix=_AGAIN,
        )
    if content_hash(offsets, items, item_ids) != manifest["content_hash"]:
        raise CanetError(
            "field $.content_hash differs from the content", where=directory / MANIFEST, fix=_AGAIN
        )
    return Dataset(directory, manifest, offsets, items)


def _read_manifest(directory: Path) -> dict[str, Any]:
    """The folder's manifest, checked against the schema."""
    if not directory.is_dir():
        what = "is a file, not a dataset folder" if directory.exists() else "no such dataset"
        raise CanetError(what, where=directory, fix="make one with `canet-mobile data import LOG --out DIR`")
    path = directory / MANIFEST
    if not path.is_file():
        raise CanetError(
            f"is not a dataset folder: it holds no {MANIFEST}",
            where=directory,
            fix="make one with `canet-mobile data import LOG --out DIR`",
        )
    manifest = read_json(path)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind != "dataset":
        raise CanetError(f"kind is {kind!r}, expected 'dataset'", where=path, fix="pass a dataset folder")
    validate(manifest, "dataset", where=path)
    listed = {entry["name"] for entry in manifest["files"]}
    if listed != {ITEMS, SEQUENCES}:
        raise CanetError(
            f"field $.files lists {sorted(listed)}, expected {[ITEMS, SEQUENCES]}", where=path, fix=_AGAIN
        )
    return manifest


def _write_sequences(path: Path, content: Content) -> None:
    """Write the histories a slice of rows at a time, so that memory does not grow with the log."""
    slices = []
    for begin in range(0, len(content.user_ids), _HISTORIES_PER_SLICE):
        rows = slice(begin, begin + _HISTORIES_PER_SLICE)
        offsets = content.offsets[rows.start : rows.stop + 1]
        inside = slice(offsets[0], offsets[-1])
        columns: dict[str, Any] = {
            "row": np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets)),
            "items": content.items[inside],
        }
        if content.times is not None:
            columns["times"] = content.times[inside]
        lists = pl.DataFrame(columns).group_by("row", maintain_order=True).agg(pl.exclude("row")).drop("row")
        slices.append(lists.insert_column(0, content.user_ids[rows].cast(pl.String).alias("user_id")))
    write_parquet(path, pl.concat(slices, rechunk=False))
