"""Reading an opened source into integer codes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
import polars as pl

from canet_mobile.data import times
from canet_mobile.data.filters import Codes, Ints
from canet_mobile.data.formats import (
    ITEM_NAMES,
    TIME_NAMES,
    USER_NAMES,
    Source,
    choose_column,
    column_names,
    scan_table,
)
from canet_mobile.errors import CanetError, UsageError

_SAMPLE = 1000


@dataclass(frozen=True)
class Columns:
    """Which column plays which role; all None for `sequences`, which has no columns."""

    user: str | None
    item: str | None
    time: str | None

    def __str__(self) -> str:
        if self.user is None:
            return "one history a line"
        return f"user={self.user}, item={self.item}, time={self.time or 'none'}"


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


def choose_columns(source: Source, user: str | None, item: str | None, time: str | None) -> Columns:
    """The columns asked for, or the ones whose names are well known; time ``none`` asks for file order.

    Raises:
        UsageError: a column asked for is missing, or none is named like a user or an item.
    """
    if source.format == "sequences":
        if any((user, item, time)):
            raise UsageError(
                "a sequence file has no columns to name",
                where=source.path,
                fix="leave --user, --item and --time out, or pass --format csv or tsv",
            )
        return Columns(None, None, None)
    names = checked_names(source)
    chosen = Columns(
        choose_column("user", names, USER_NAMES, user, source.path),
        choose_column("item", names, ITEM_NAMES, item, source.path),
        None if time == "none" else choose_column("time", names, TIME_NAMES, time, source.path),
    )
    for article, role, name in (("a", "user", chosen.user), ("an", "item", chosen.item)):
        if name is None:
            looks = " (is the first line a row? then pass --no-header)" if _all_values(names) else ""
            raise UsageError(
                f"no column is named like {article} {role}; columns: {', '.join(names)}",
                where=source.path,
                fix=f"pass --{role} COLUMN{looks}",
            )
    used = [name for name in (chosen.user, chosen.item, chosen.time) if name]
    if len(set(used)) < len(used):
        raise UsageError(f"one column plays two roles: {chosen}", where=source.path, fix="name them apart")
    return chosen


def checked_names(source: Source) -> list[str]:
    """`column_names`, with a damaged Parquet file named."""
    if source.format == "parquet":
        schemas = {}
        for part in source.files:
            try:
                schemas[part] = pl.read_parquet_schema(part)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise CanetError(
                    f"truncated or damaged Parquet ({_first_line(error)})", where=part, fix="write it again"
                ) from error
        first = source.files[0]
        for part, schema in schemas.items():
            if schema != schemas[first]:
                odd = sorted(set(schema.items()) ^ set(schemas[first].items()), key=str)[0][0]
                raise CanetError(
                    f"column {odd!r} differs from {first.name}'s", where=part, fix="give all parts one schema"
                )
    return column_names(source)


def read_log(source: Source, columns: Columns) -> Log:
    """Read every interaction.

    Raises:
        CanetError: a missing id, a time that cannot be read, a ragged line, bytes that are not UTF-8;
            names the line (the row, for Parquet).
    """
    user, item, time = columns.user or "user", columns.item or "item", columns.time
    try:
        table = scan_table(source)
        schema = table.collect_schema()
        form = None if time is None else _time_format(source, table, time)
        wanted = [
            as_id(user, schema[user], source).cast(_categories()).alias("user"),
            as_id(item, schema[item], source).cast(_categories()).alias("item"),
        ]
        if time is not None and form is not None:
            wanted.append(times.microseconds(pl.col(time), schema[time], form).alias("time"))
        rows = table.select(wanted).collect(engine="streaming")
        if sum(rows.null_count().row(0)):
            _refuse_nulls(source, table, schema, columns, form)
            rows = rows.drop_nulls()  # blank lines
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        explain(source, error)
    if rows.is_empty():
        raise CanetError("holds no interactions", where=source.path, fix="check the export that made it")
    user_codes, user_ids = _codes(rows["user"])
    item_codes, item_ids = _codes(rows["item"])
    stamps = rows["time"].to_numpy() if form is not None else None
    return Log(user_codes, item_codes, stamps, form.unit if form else None, user_ids, item_ids)


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


def as_id(name: str, dtype: pl.DataType, source: Source) -> pl.Expr:
    """A column as text ids; blank text is no id."""
    if dtype.is_nested():
        raise CanetError(
            f"column {name!r} holds {dtype}, not ids", where=source.path, fix="pass another column"
        )
    column = pl.col(name)
    if dtype == pl.Binary:
        return column.bin.encode("hex")
    if dtype != pl.String:
        return column.cast(pl.String)
    if source.format == "sequences":
        return column
    text = column.str.strip_chars()
    return pl.when(text != "").then(text)


def _time_format(source: Source, table: pl.LazyFrame, time: str) -> times.TimeFormat:
    sample = table.select(time).drop_nulls().head(_SAMPLE).collect()[time]
    form = times.detect(sample)
    if form is not None:
        return form
    if sample.is_empty():
        raise CanetError(f"column {time!r} is empty", where=source.path, fix="pass another --time COLUMN")
    row = table.with_row_index("row").filter(pl.col(time).is_not_null()).head(1).collect()
    _refuse_time(source, int(row["row"][0]), time, row[time][0])


def _refuse_time(source: Source, row: int, time: str, value: object) -> NoReturn:
    raise CanetError(
        f"column {time!r} holds {value!r}, which is not a time" if value not in (None, "")
        else f"column {time!r} is empty",
        where=_place(source, row),
        fix="times are numbers (s, ms, us, ns) or ISO 8601; correct the line or pass another --time COLUMN",
    )  # fmt: skip


def _refuse_nulls(
    source: Source, table: pl.LazyFrame, schema: pl.Schema, columns: Columns, form: times.TimeFormat | None
) -> None:
    """Find the first row with a missing id or a wrong time; blank lines are not rows."""
    user, item, time = columns.user or "user", columns.item or "item", columns.time
    bad = {name: as_id(name, schema[name], source).is_null() for name in (user, item)}
    if time is not None and form is not None:
        bad[time] = times.microseconds(pl.col(time), schema[time], form).is_null()
    flags = [flag.alias(f"bad {name}") for name, flag in bad.items()]
    blank = pl.all_horizontal(pl.all().exclude("row").is_null())
    found = (
        table.with_row_index("row")
        .filter(~blank & pl.any_horizontal(list(bad.values())))
        .head(1)
        .with_columns(flags)
        .collect()
    )
    for name in bad if len(found) else ():
        if not found[f"bad {name}"][0]:
            continue
        row = int(found["row"][0])
        if name == time:
            _refuse_time(source, row, name, found[name][0])
        raise CanetError(
            f"column {name!r} is empty", where=_place(source, row), fix="fill it in or remove the line"
        )


def _place(source: Source, row: int) -> str:
    """Where row n (from 0) stands, in the words of the format."""
    if source.format == "parquet":
        return f"{source.path}, row {row} (from 0)"
    return f"{source.path}, line {row + 1 + source.lines_before_rows}"


def explain(source: Source, error: Exception) -> NoReturn:
    """Find the line that the reader stumbled over."""
    if source.format != "parquet":
        with source.text.open("rb") as raw:
            for number, line in enumerate(raw, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    raise CanetError(
                        "is not UTF-8", where=f"{source.path}, line {number}", fix="convert it to UTF-8"
                    ) from error
    if source.format in ("csv", "tsv", "recbole"):
        width = len(column_names(source))
        with source.text.open(encoding="utf-8-sig", newline="") as text:
            plain: Literal[0, 3] = csv.QUOTE_NONE if source.format == "recbole" else csv.QUOTE_MINIMAL
            reader, begin = csv.reader(text, delimiter=source.separator, quoting=plain, strict=True), 1
            try:
                for row in reader:
                    if len(row) > width:
                        raise CanetError(
                            f"has {len(row)} fields, the header names {width}",
                            where=f"{source.path}, line {reader.line_num}",
                            fix="quote fields that hold the separator",
                        ) from error
                    begin = reader.line_num + 1
            except csv.Error as broken:
                what = f"holds a quote that is not closed or not doubled ({broken})"
                place = f"{source.path}, line {begin}"
                raise CanetError(what, where=place, fix='close it, or write "" for a quote') from error
    raise CanetError(
        f"cannot be read ({_first_line(error)})", where=source.path, fix="check the file"
    ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _all_values(names: list[str]) -> bool:
    return all(name.replace(".", "", 1).isdigit() for name in names)
