"""From a log to a dataset: read, order, filter, cut, number, write.

Text ids become integer codes while they are read, so that from then on a log of n rows is 4 + 4 + 8
bytes a row and everything is a few passes over plain arrays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from canet_mobile.data.columns import choose_columns
from canet_mobile.data.dataset import Content, Dataset, write_dataset
from canet_mobile.data.filters import Codes, Dropped, Ints, cut_sessions, iterative_filter
from canet_mobile.data.formats import MAX_BYTES, open_source
from canet_mobile.data.reading import Log, check_parts, read_log
from canet_mobile.data.source import Format, Source
from canet_mobile.data.split import MIN_HISTORY
from canet_mobile.data.titles import read_titles
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import describe_files, disk_errors, refuse_existing

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ImportOptions:
    """How to read and filter a log.

    Attributes:
        name: of the dataset; None takes the folder's.
        format, separator, user, item, time, header: None (or True) finds out; see `formats` and `columns`.
        keep: ids that look like "no value" (NA, null, ...) and are ids all the same.
        max_bytes: the most that a gzipped log may unpack to.
        items_file, title: where titles stand, and in which column.
        min_item_count: drop items that fewer different users have.
        min_history: drop histories with fewer interactions; at least 3.
        session_length: cut histories into sessions of exactly this many items; None keeps histories.
        session_gap_s: drop sessions whose last two items are further apart, in seconds; None keeps all.
    """

    name: str | None = None
    format: Format | None = None
    separator: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    header: bool = True
    keep: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    items_file: Path | None = None
    title: str | None = None
    min_item_count: int = 5
    min_history: int = 5
    session_length: int | None = None
    session_gap_s: float | None = 7200.0

    def __post_init__(self) -> None:
        if self.min_history < MIN_HISTORY:
            raise UsageError(
                f"--min-history {self.min_history} is too short: the last item is the test, the one before "
                "it the validation, and one must be left to train on",
                fix=f"pass {MIN_HISTORY} or more",
            )
        if self.min_item_count < 1:
            raise UsageError(f"--min-item-count {self.min_item_count} is below 1", fix="pass 1 or more")
        if self.session_length is not None and self.session_length < MIN_HISTORY:
            raise UsageError(f"--session-length {self.session_length} is too short", fix="pass 3 or more")
        if self.session_gap_s is not None and self.session_gap_s <= 0:
            raise UsageError(f"--session-gap {self.session_gap_s} is not above 0", fix="pass 2h, or none")
        if self.title is not None and self.items_file is None:
            raise UsageError("--title names a column of --items-file, which is missing", fix="pass both")

    def filters(self) -> dict[str, Any]:
        """The options that decide which interactions stay, as the manifest records them."""
        chosen = asdict(self)
        names = ("min_item_count", "min_history", "session_length", "session_gap_s")
        filters = {name: chosen[name] for name in names}
        return filters if self.session_length is not None else {**filters, "session_gap_s": None}


def import_log(
    path: Path,
    out: Path,
    options: ImportOptions = ImportOptions(),
    *,
    force: bool = False,
    progress: Progress = lambda message: None,
) -> Dataset:
    """Import a log into a dataset folder.

    Histories stand in the order in which their users first appear in the source; a history is ordered by
    time, equal times by their order in the source. Items are numbered 1..V in the order in which they
    first appear when the histories are read one after the other. So the same log and options always give
    the same dataset.

    Args:
        path: a file, or a folder of Parquet files.
        out: the dataset folder to make.
        options: how to read and filter.
        force: replace the dataset that is there.
        progress: told what is being done, in words.

    Raises:
        CanetError: the source cannot be read as asked, nothing is left of it, or ``out`` cannot be written.
    """
    refuse_existing(out, force=force, kind="dataset")
    with disk_errors(out), tempfile.TemporaryDirectory(prefix="canet-import-") as scratch:
        progress(f"opening {path}")
        source = open_source(
            path,
            Path(scratch),
            format=options.format,
            header=options.header,
            separator=options.separator,
            max_bytes=options.max_bytes,
            note=progress,
        )
        check_parts(source)
        source, columns = choose_columns(source, options.user, options.item, options.time, progress)
        if columns.time is None:
            progress("note: no time column, so the order of the file is the order of the histories")
        progress(f"reading {source.format}: {columns}")
        log = read_log(source, columns, Path(scratch), keep=options.keep, note=progress)
        content, stages = _histories(log, options, path, progress)
        title_column = None
        if options.items_file is not None:
            progress(f"joining titles from {options.items_file}")
            titles, title_column = read_titles(
                options.items_file,
                Path(scratch),
                content.item_ids,
                options.item,
                options.title,
                max_bytes=options.max_bytes,
                note=progress,
            )
            content = replace(content, titles=titles)
        progress("writing")
        about = {
            "name": options.name or out.resolve().name,
            "sources": _sources(source, options.items_file),
            "format": source.format,
            "columns": {
                "user": columns.user,
                "item": columns.item,
                "time": columns.times,
                "title": title_column,
            },
            "time_unit": log.time_unit,
            "options": options.filters(),
            "stages": stages,
        }
        return write_dataset(out, content, about, force=force)


def _histories(
    log: Log, options: ImportOptions, path: Path, progress: Progress
) -> tuple[Content, dict[str, int]]:
    """Filter, order, cut and number a log."""
    read, num_users = len(log.users), len(log.user_ids)
    if num_users < 2:
        raise CanetError(
            f"holds one user only ({log.user_ids[0]!r})",
            where=path,
            fix="pass --user with the column that tells the histories apart",
        )
    progress(f"filtering {read:,} interactions of {num_users:,} users")
    keep, dropped = iterative_filter(log.users, log.items, options.min_item_count, options.min_history)
    users, items = log.users[keep], log.items[keep]
    times = None if log.times is None else log.times[keep]
    _refuse_nothing_left(users, log, dropped, options, path)
    progress("ordering")
    order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
    users, items = users[order], items[order]
    times = None if times is None else times[order]
    del order
    bounds = np.flatnonzero(np.diff(users, prepend=-1, append=-1)).astype(np.int64)
    owners = users[bounds[:-1]]
    user_ids, sessions_dropped = log.user_ids.gather(owners), 0
    if options.session_length is not None:
        length, kept = options.session_length, len(items)
        bounds, rows, owners, user_ids = _sessions(
            bounds, times, owners, user_ids, options=options, path=path
        )
        items, times = items[rows], None if times is None else times[rows]
        sessions_dropped = kept - len(rows)
        if len(user_ids) < 2:
            raise CanetError(
                f"{len(user_ids)} sessions of {length} items are left of {kept:,} filtered interactions",
                where=path,
                fix="lower --session-length or raise --session-gap",
            )
    ids, item_codes = _numbered(items)
    stages = {
        "read": read,
        "dropped_rare_items": dropped.rare_items,
        "dropped_short_histories": dropped.short_histories,
        "rounds": dropped.rounds,
        "dropped_sessions": sessions_dropped,
        "kept": len(ids),
    }
    item_ids = log.item_ids.gather(item_codes)
    untitled = pl.Series("title", [None], dtype=pl.String).new_from_index(0, len(item_ids))
    users_left = len(np.unique(owners))
    return Content(bounds, ids, times, user_ids, item_ids, untitled, users_left), stages


def _sessions(
    bounds: Ints,
    times: Ints | None,
    owners: Codes,
    user_ids: pl.Series,
    *,
    options: ImportOptions,
    path: Path,
) -> tuple[Ints, Ints, Codes, pl.Series]:
    """Bounds, rows, owners and ids of the sessions."""
    length, gap = options.session_length or 0, options.session_gap_s
    if gap is not None and times is None:
        raise CanetError(
            "the source has no times, so the gap between a session's last two items is unknown",
            where=path,
            fix="pass --time COLUMN, or --session-gap none",
        )
    owner, starts = cut_sessions(bounds, times, length, None if gap is None else round(gap * 1e6))
    rows = (starts[:, None] + np.arange(length)).reshape(-1)
    number = (starts - bounds[owner]) // length + 1
    names = pl.DataFrame({"user": user_ids.gather(owner), "number": number}).select(
        pl.format("{}#{}", "user", "number").alias("user_id")
    )["user_id"]
    return np.arange(len(starts) + 1, dtype=np.int64) * length, rows, owners[owner], names


def _numbered(codes: Codes) -> tuple[Codes, Codes]:
    """Ids 1..V in order of first appearance, [n] int32; and the code of each id, [V]."""
    first = np.full(int(codes.max()) + 1, len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    by_id = np.argsort(first, kind="stable")[: int((first < len(codes)).sum())].astype(np.int32)
    ids = np.zeros(len(first), np.int32)
    ids[by_id] = np.arange(1, len(by_id) + 1)
    return ids[codes], by_id


def _refuse_nothing_left(
    users: Codes, log: Log, dropped: Dropped, options: ImportOptions, path: Path
) -> None:
    """Say which filter took everything."""
    left = len(np.unique(users))
    if left >= 2:
        return
    raise CanetError(
        f"{left} histories are left of {len(log.users):,} interactions ({len(log.user_ids):,} users, "
        f"{len(log.item_ids):,} items): --min-item-count {options.min_item_count} dropped "
        f"{dropped.rare_items:,}, --min-history {options.min_history} dropped {dropped.short_histories:,}",
        where=path,
        fix="lower them, or check that --user and --item name the right columns",
    )


def _sources(source: Source, items_file: Path | None) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of every file that was read."""
    base = source.path if source.path.is_dir() else source.path.parent
    entries = describe_files(base, [part.relative_to(base).as_posix() for part in source.files])
    return entries + (describe_files(items_file.parent, [items_file.name]) if items_file else [])
