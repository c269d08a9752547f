"""Finding the line, or the row, that a log is refused for."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NoReturn

import polars as pl

from canet_mobile.data import text, times
from canet_mobile.data.columns import Columns
from canet_mobile.data.names import NULL_LIKE, counted, plain
from canet_mobile.data.source import Source, column_names, scan_words
from canet_mobile.errors import CanetError


def as_id(name: str, dtype: pl.DataType, source: Source) -> pl.Expr:
    """A column as text ids; blanks around text are no part of it, and blank text is no id."""
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
    stripped = column.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def as_time(columns: Columns, schema: pl.Schema, form: times.TimeFormat) -> pl.Expr:
    """The times as they are read; with a clock, microseconds of the day are added to those of the date."""
    assert columns.time is not None
    value = times.expression(pl.col(columns.time), schema[columns.time], form)
    if columns.clock is None:
        return value
    if form.kind == "number":  # dates in digits
        number = pl.col(columns.time).cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
        value = number.cast(pl.String).str.to_datetime("%Y%m%d", time_unit="us", strict=False).to_physical()
    return value + times.clock(pl.col(columns.clock), schema[columns.clock], plain(columns.clock))


def refuse_time(source: Source, row: int, time: str, value: object) -> NoReturn:
    raise CanetError(
        f"column {time!r} holds {value!r}, which is not a time" if value not in (None, "")
        else f"column {time!r} is empty",
        where=_place(source, row),
        fix="times are numbers (s, ms, us, ns), YYYYMMDD or ISO 8601; correct the line or pass another "
        "--time COLUMN",
    )  # fmt: skip


def check_count(source: Source, rows: pl.DataFrame, columns: Columns) -> None:
    """Hold the rows read to a count made without the reader.

    Raises:
        CanetError: they differ; names the first line of separators alone, which is a row without ids.
    """
    if source.format == "sequences":
        return
    if source.rows is not None:
        expected = sum(_rows_in_footer(part) for part in source.rows)
    elif source.format == "parquet":
        expected = sum(_rows_in_footer(part) for part in source.files)
    else:
        expected = source.lines or 0
    if len(rows) == expected:
        return
    if source.rows is None and source.format != "parquet":
        with source.text.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.replace(source.separator, "").replace('"', "").strip():
                    raise CanetError(
                        f"column {columns.user!r} is empty",
                        where=f"{source.path}, line {number}",
                        fix="fill it in or remove the line",
                    )
    raise CanetError(
        f"{len(rows):,} rows were read, but it holds {expected:,}",
        where=source.path,
        fix="write the log as Parquet, and please report this file",
    )


def _rows_in_footer(part: Path) -> int:
    with part.open("rb") as file:
        return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def refuse_nulls(
    source: Source, table: pl.LazyFrame, schema: pl.Schema, columns: Columns, form: times.TimeFormat | None
) -> None:
    """Find the first row with a missing id or a wrong time; blank lines are not rows."""
    _refuse_ragged(source)
    bad = {name: value.is_null() for name, value in _read_columns(source, schema, columns, form).items()}
    flags = [flag.alias(f"bad {name}") for name, flag in bad.items()]
    found = (
        table.with_row_index("row")
        .filter(~_blank(source, schema) & pl.any_horizontal(list(bad.values())))
        .head(1)
        .with_columns(flags)
        .collect()
    )
    for name in bad if len(found) else ():
        if not found[f"bad {name}"][0]:
            continue
        row = int(found["row"][0])
        if name == columns.times and columns.time is not None and form is not None:
            date = found.select(times.expression(pl.col(columns.time), schema[columns.time], form)).item()
            wrong = columns.clock if columns.clock and date is not None else columns.time
            refuse_time(source, row, wrong, found[wrong][0])
        raise CanetError(
            f"column {name!r} is empty", where=_place(source, row), fix="fill it in or remove the line"
        )


def _read_columns(
    source: Source, schema: pl.Schema, columns: Columns, form: times.TimeFormat | None
) -> dict[str, pl.Expr]:
    """What is read of each role, by the column's name."""
    names = (columns.user or "user", columns.item or "item")
    read = {name: as_id(name, schema[name], source) for name in names}
    if columns.times is not None and form is not None:
        read[columns.times] = as_time(columns, schema, form)
    return read


def _blank(source: Source, schema: pl.Schema) -> pl.Expr:
    """Whether a row is a blank line: only text has those."""
    if source.format == "parquet":
        return pl.lit(False)
    return pl.all_horizontal(pl.col(name).str.strip_chars().fill_null("") == "" for name in schema.names())


def _refuse_ragged(source: Source) -> None:
    """Name the first line of another width, in a table whose lines are split by us."""
    if not source.split or source.format in ("sequences", "parquet"):
        return
    width = len(column_names(source))
    found = (
        scan_words(source)
        .with_row_index("row")
        .filter((pl.col("words").list.len() != width) & (pl.col("words").list.len() > 0))
        .head(1)
        .collect()
    )
    if len(found):
        raise CanetError(
            f"has {len(found['words'][0])} fields, other lines have {width}",
            where=_place(source, int(found["row"][0])),
            fix="correct the line",
        )


def refuse_null_like(
    source: Source,
    table: pl.LazyFrame,
    schema: pl.Schema,
    name: str,
    ids: pl.Series,
    keep: Collection[str],
    option: str,
) -> None:
    """Refuse ids that other programs write for "no value": each would be one id with everybody's rows."""
    suspects = [value for value in ids.filter(ids.is_in(list(NULL_LIKE))).to_list() if value not in keep]
    if not suspects:
        return
    value = suspects[0]
    if source.format == "sequences":
        lines = scan_words(source).with_row_index("row")
        holds = lines.filter(pl.col("words").list.contains(pl.lit(value))).select("row").collect()["row"]
    else:
        numbered = table.with_row_index("row")
        holds = numbered.filter(as_id(name, schema[name], source) == value).select("row").collect()["row"]
    raise CanetError(
        f"column {name!r} holds {value!r} in {counted(len(holds), 'row')}, which usually means no {option}",
        where=_place(source, int(holds[0])),
        fix=f"remove these rows, pass another --{option} COLUMN, or --keep {value!r} if it is an id",
    )


def place_of_read(source: Source, table: pl.LazyFrame, schema: pl.Schema, columns: Columns, row: int) -> str:
    """Where the n-th row that was read (from 0; blank lines are not rows) stands."""
    filled = table.with_row_index("row").filter(~_blank(source, schema)).select("row")
    return _place(source, int(filled.slice(row, 1).collect().item()))


def _place(source: Source, row: int) -> str:
    """Where row n (from 0) stands, in the words of the format."""
    if source.format == "parquet":
        return _place_in_parts(source, row)
    if source.rows is not None:
        line = pl.scan_parquet(list(source.rows), glob=False).select(text.LINE).slice(row, 1).collect().item()
        return f"{source.path}, line {line}"
    return f"{source.path}, line {row + 1 + source.lines_before_rows}"


def _place_in_parts(source: Source, row: int) -> str:
    """File and row within it."""
    for part in source.files:
        held = _rows_in_footer(part)
        if row < held:
            return f"{part}, row {row} (from 0)"
        row -= held
    return f"{source.path}, row {row} after the last"


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
    if source.format in ("csv", "tsv", "recbole") and not source.split:
        width = len(column_names(source))
        with source.text.open(encoding="utf-8-sig", newline="") as file:
            marks: Literal[0, 3] = csv.QUOTE_MINIMAL if source.quoting else csv.QUOTE_NONE
            for _ in range(source.skip):
                file.readline()
            reader = csv.reader(file, delimiter=source.separator, quoting=marks)
            for row in reader:
                if len(row) > width:
                    raise text.too_many_fields(
                        len(row), width, source.path, source.skip + reader.line_num
                    ) from error
    raise CanetError(
        f"cannot be read ({first_line(error)})", where=source.path, fix="check the file"
    ) from error


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
