"""Reading an opened source into integer codes: every row in its place, or refused with its line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from canet_mobile.data import times
from canet_mobile.data.columns import Columns
from canet_mobile.data.filters import Codes, Ints
from canet_mobile.data.names import counted
from canet_mobile.data.refuse import (
    as_id,
    as_time,
    check_count,
    explain,
    first_line,
    place_of_read,
    refuse_null_like,
    refuse_nulls,
    refuse_time,
)
from canet_mobile.data.source import Source, column_names, prepare, scan_table
from canet_mobile.data.units import WrongTime, to_microseconds
from canet_mobile.errors import CanetError

_SAMPLE = 1000


@dataclass(frozen=True)
class Log:
    """A log in integer codes, in source order.

    Attributes:
        users: [n] int32 codes into user_ids.
        items: [n] int32 codes into item_ids.
        times: [n] int64 microseconds since 1970, or None.
        time_unit: what the times were read as.
        user_ids, item_ids: strings, in order of first appearance.
    """

    users: Codes
    items: Codes
    times: Ints | None
    time_unit: str | None
    user_ids: pl.Series
    item_ids: pl.Series


def check_parts(source: Source) -> None:
    """Look into every Parquet file before any is read.

    Raises:
        CanetError: one is damaged, or has other columns than the first; names it.
    """
    if source.format != "parquet":
        return
    schemas = {}
    for part in source.files:
        try:
            with part.open("rb") as file:
                schemas[part] = pl.read_parquet_schema(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CanetError(
                f"truncated or damaged Parquet ({first_line(error)})", where=part, fix="write it again"
            ) from error
    first = source.files[0]
    for part, schema in schemas.items():
        if schema != schemas[first]:
            odd = sorted(set(schema.items()) ^ set(schemas[first].items()), key=str)[0][0]
            raise CanetError(
                f"column {odd!r} differs from {first.name}'s", where=part, fix="give all parts one schema"
            )


def read_log(
    source: Source,
    columns: Columns,
    scratch: Path,
    *,
    keep: Collection[str] = (),
    note: Callable[[str], None] = lambda message: None,
) -> Log:
    """Read every interaction.

    Args:
        source: as opened.
        columns: which column is what.
        scratch: an existing folder, for a text that Polars would misread.
        keep: ids that look like "no value" (NA, null, ...) and are ids all the same.
        note: told what a reader of the log should know.

    Raises:
        CanetError: a missing id, a time that cannot be read or stand beside the others, a ragged line, bytes
            that are not UTF-8; names the line (the row, for Parquet).
    """
    user, item = columns.user or "user", columns.item or "item"
    try:
        source = prepare(source, scratch, _row_test(source, columns))
        table = scan_table(source)
        schema = table.collect_schema()
        form = None if columns.time is None else _time_format(source, table, columns.time)
        wanted = [
            as_id(user, schema[user], source).cast(_categories()).alias("user"),
            as_id(item, schema[item], source).cast(_categories()).alias("item"),
        ]
        if form is not None:
            wanted.append(as_time(columns, schema, form).alias("time"))
        rows = table.select(wanted).collect(engine="streaming")
        lonely = 0
        if sum(rows.null_count().row(0)):
            if source.format == "sequences":
                lonely = _lonely_users(rows)
            else:
                refuse_nulls(source, table, schema, columns, form)
            rows = rows.drop_nulls()  # blank lines
        check_count(source, rows, columns)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        explain(source, error)
    if rows.is_empty():
        raise CanetError("holds no interactions", where=source.path, fix="check the export that made it")
    user_codes, user_ids = _codes(rows["user"])
    item_codes, item_ids = _codes(rows["item"])
    for name, ids, option in ((user, user_ids, "user"), (item, item_ids, "item")):
        refuse_null_like(source, table, schema, name, ids, keep, option)
    if source.format == "sequences":
        _describe_sequences(source, user_codes, user_ids, item_ids, lonely, note)
    if form is None:
        return Log(user_codes, item_codes, None, None, user_ids, item_ids)
    try:
        stamps, unit = to_microseconds(
            rows["time"].to_numpy(), numbers=form.kind == "number" and columns.clock is None
        )
    except WrongTime as wrong:
        raise CanetError(
            f"column {columns.times!r} {wrong.why}",
            where=place_of_read(source, table, schema, columns, wrong.row),
            fix="correct the line, pass another --time COLUMN, or --time none if the file is in order",
        ) from None
    return Log(user_codes, item_codes, stamps, unit, user_ids, item_ids)


def _row_test(source: Source, columns: Columns) -> Callable[[Sequence[str]], bool]:
    """Whether the fields of one line would make a row of the log: ids, and a time that begins as times do."""
    if source.format == "sequences":
        return lambda fields: True
    names = column_names(source)
    ids = [names.index(name) for name in (columns.user, columns.item) if name]
    when = None if columns.time is None else names.index(columns.time)

    def looks_like_row(fields: Sequence[str]) -> bool:
        timed = when is None or fields[when].strip().strip('"')[:1].isdigit()
        return timed and all(fields[n].strip() for n in ids)

    return looks_like_row


def _categories() -> pl.DataType:
    """A dictionary of its own for a column, freed with it."""
    return pl.Categorical(pl.Categories.random())


def _codes(column: pl.Series) -> tuple[Codes, pl.Series]:
    """Codes in order of first appearance, whatever order the readers' threads met the values in."""
    names = column.unique(maintain_order=True)
    physical = names.to_physical().to_numpy()
    table = np.zeros(int(physical.max()) + 1, np.int32)
    table[physical] = np.arange(len(names), dtype=np.int32)
    return table[column.to_physical().to_numpy()], names.cast(pl.String)


def _time_format(source: Source, table: pl.LazyFrame, time: str) -> times.TimeFormat:
    sample = table.select(time).drop_nulls().head(_SAMPLE).collect()[time]
    form = times.detect(sample)
    if form is not None:
        return form
    if sample.is_empty():
        raise CanetError(f"column {time!r} is empty", where=source.path, fix="pass another --time COLUMN")
    row = table.with_row_index("row").filter(pl.col(time).is_not_null()).head(1).collect()
    refuse_time(source, int(row["row"][0]), time, row[time][0])


def _lonely_users(rows: pl.DataFrame) -> int:
    """Lines of a sequence file that hold a user and no item."""
    return int((rows["user"].is_not_null() & rows["item"].is_null()).sum())


def _describe_sequences(
    source: Source,
    users: Codes,
    user_ids: pl.Series,
    item_ids: pl.Series,
    lonely: int,
    note: Callable[[str], None],
) -> None:
    """Say how many items a line holds: a table taken for sequences shows at once."""
    lengths = np.bincount(users)
    held = (source.lines or 0) - lonely
    again = held - len(lengths)
    note(
        f"note: read as one history a line: {len(users) / max(1, held):.1f} items a line, the first is user "
        f"{user_ids[0]!r} with item {item_ids[0]!r}; a table of columns needs --separator blank"
    )
    if lonely:
        note(f"note: {counted(lonely, 'line')} of a user and no item")
    if again > 0:
        note(f"note: {counted(again, 'line')} of a user who has one above; items are joined in file order")
