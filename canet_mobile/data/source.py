"""An opened source: its columns, its first rows, and the whole of it as one Polars LazyFrame.

Text is never guessed at: every field is read as text, in file order.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from canet_mobile.data import parts, text
from canet_mobile.errors import CanetError

Format = Literal["csv", "tsv", "parquet", "recbole", "sequences"]
FORMATS: tuple[Format, ...] = ("csv", "tsv", "parquet", "recbole", "sequences")

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES, _HEAD_LINES = 1 << 16, 200
_ANNOUNCED = re.compile(r"[\"']?sep=(.)[\"']?", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A log that was found and opened, not yet read.

    Attributes:
        path: what the user named.
        files: every file of it, in the order they are read.
        text: the plain text to read (a decompressed copy when the source is gzipped).
        format: one of `FORMATS`.
        header: whether the first line names the columns.
        separator: between the fields of a text format; a blank stands for any run of blanks.
        skip: lines before the header (or the first row): blank ones, and Excel's ``sep=;``.
        quoting: whether quotation marks mean anything.
        lines: lines of a text format that hold more than blanks, after ``skip``; None before `prepare`.
        rows: what `prepare` wrote where Polars would misread the text; its text is not read again then.
    """

    path: Path
    files: tuple[Path, ...]
    text: Path
    format: Format
    header: bool = True
    separator: str = ","
    skip: int = 0
    quoting: bool = False
    lines: int | None = None
    rows: tuple[Path, ...] | None = None

    @property
    def lines_before_rows(self) -> int:
        """Lines of the file before row 0."""
        return self.skip + int(self.header and self.format in ("csv", "tsv", "recbole"))

    @property
    def split(self) -> bool:
        """Whether lines are split by us: Polars knows no separators of several characters."""
        return self.separator == " " or len(self.separator) > 1


def prepare(
    source: Source, scratch: Path, looks_like_row: Callable[[Sequence[str]], bool] = lambda fields: True
) -> Source:
    """Count the lines of a text, and rewrite it where Polars would misread it.

    Args:
        source: as opened; Parquet is returned as it is.
        scratch: an existing folder.
        looks_like_row: see `text.rewrite`.

    Raises:
        CanetError: as `text.survey` and `text.rewrite`.
    """
    if source.format == "parquet":
        return source
    seen = text.survey(source.text, source.separator, source.path, quoting=source.quoting)
    counted = replace(source, lines=seen.lines - _filled_before(source))
    if (source.format == "sequences" or source.split) and seen.returns:
        raise CanetError(
            "ends lines in CR alone, as old Macs did", where=source.path, fix=r"convert it: tr '\r' '\n'"
        )
    if seen.plain:
        return replace(counted, quoting=seen.quotes)
    rows = text.rewrite(
        source.text,
        scratch,
        column_names(source),
        separator=source.separator,
        skip=source.skip,
        header=source.header,
        quoting=source.quoting,
        looks_like_row=looks_like_row,
        where=source.path,
    )
    return replace(source, rows=rows)


def _filled_before(source: Source) -> int:
    """Lines before the first row that are not blank."""
    with source.text.open(encoding="utf-8-sig", newline="\n") as file:
        return sum(bool(file.readline().strip()) for _ in range(source.skip)) + int(
            source.lines_before_rows > source.skip
        )


def head_table(source: Source) -> pl.DataFrame:
    """The first rows, to look at values before anything is read: text, or Parquet's own types."""
    if source.format == "parquet":
        return scan_table(source).head(1000).collect()
    names, rows = column_names(source), _head_rows(source)[int(source.header) :]
    return pl.DataFrame(
        {
            name: pl.Series([row[n] if n < len(row) else None for row in rows], dtype=pl.String)
            for n, name in enumerate(names)
        }
    )


def column_names(source: Source) -> list[str]:
    """The columns of a table, without RecBole's types.

    Raises:
        CanetError: the header or a Parquet footer cannot be read, or a name stands twice.
    """
    if source.format == "parquet":
        return list(scan_table(source).collect_schema().names())
    raw = first_row(source)
    if not source.header:
        return [f"column_{number}" for number in range(1, len(raw) + 1)]
    names = [name.partition(":")[0] if source.format == "recbole" else name for name in raw]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        where = f"{source.path}, line {source.lines_before_rows}"
        raise CanetError(f"the header names {sorted(twice)[0]!r} twice", where=where, fix="rename one")
    return names


def first_row(source: Source) -> list[str]:
    """The fields of a text's first line, whatever they are; marks around every name are no part of it."""
    fields = [field.strip() for field in _head_rows(source)[0]]
    enclosed = all(len(field) > 1 and field[0] == field[-1] == '"' for field in fields)
    return [field[1:-1] for field in fields] if enclosed and source.header else fields


def scan_table(source: Source) -> pl.LazyFrame:
    """The whole source as a LazyFrame in file order; of text formats every field is text."""
    if source.format == "parquet":
        return parts.scan_parts(source.path, source.files)
    if source.format == "sequences":
        words = scan_words(source)
        return words.select(user=pl.col("words").list.first(), item=pl.col("words").list.slice(1)).explode(
            "item", empty_as_null=True, keep_nulls=True
        )
    names = column_names(source)
    if source.rows is not None:
        if not source.rows:
            return pl.LazyFrame(schema=dict.fromkeys(names, pl.String))
        return pl.scan_parquet(list(source.rows), glob=False).select(names)
    if source.split:
        whole = pl.col("words").list.len() == len(names)
        return scan_words(source).select(
            pl.when(whole).then(pl.col("words").list.get(number, null_on_oob=True)).alias(name)
            for number, name in enumerate(names)
        )
    return pl.scan_csv(
        source.text, has_header=source.header, separator=source.separator, infer_schema=False,
        new_columns=names, quote_char='"' if source.quoting else None, skip_lines=source.skip, glob=False,
    )  # fmt: skip


def one_blank(line: pl.Expr) -> pl.Expr:
    """Lines without a byte order mark and blanks at their ends, words a blank apart."""
    return line.str.strip_chars("\ufeff").str.strip_chars().str.replace_all(r"\s+", " ")


def scan_words(source: Source) -> pl.LazyFrame:
    """The ``words`` of every line after the header, blank lines included as empty lists."""
    lines = pl.scan_lines(source.text, glob=False).slice(source.lines_before_rows)
    line = pl.col("line").str.strip_chars("\ufeff").str.strip_chars_end("\r")
    line = one_blank(pl.col("line")) if source.separator == " " else line
    filled = line.str.strip_chars() != ""
    return lines.select(words=pl.when(filled).then(line.str.split(source.separator)).otherwise([]))


def _head_rows(source: Source) -> list[list[str]]:
    """The first rows and the header, as text fields; marks that are not closed do no harm here."""
    lines = read_head(source.path, source.text)[0]
    lines = lines[1:] if announced_separator(lines[0]) else lines
    if source.separator == " ":
        return [line.split() for line in lines]
    if not source.quoting:
        return [line.split(source.separator) for line in lines]
    return list(csv.reader([line + "\n" for line in lines], delimiter=source.separator))


def read_head(path: Path, plain: Path) -> tuple[list[str], int]:
    """The first whole lines that are not blank, and how many blank ones stand before them."""
    with plain.open("rb") as file:
        block = file.read(_HEAD_BYTES)
    if block.startswith(_UTF16):
        raise CanetError(
            "is UTF-16, not UTF-8", where=path, fix=f"convert it: iconv -f UTF-16 -t UTF-8 {path.name}"
        )
    if block.startswith(parts.PARQUET):
        raise CanetError("is a gzipped Parquet file", where=path, fix="unpack it first")
    if b"\0" in block:
        raise CanetError("is neither text nor Parquet", where=path, fix="convert it to CSV or Parquet")
    whole = block
    if len(block) == _HEAD_BYTES:
        whole = block[: max(block.rfind(b"\n"), block.rfind(b"\r")) + 1] or block
    try:
        content = whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1
        raise CanetError("is not UTF-8", where=f"{path}, line {line}", fix="convert it to UTF-8") from None
    lines = re.split(r"\r\n|\n|\r", content)
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise CanetError("the file is empty", where=path, fix="check the export that made it")
    return filled[:_HEAD_LINES], lines.index(filled[0])


def announced_separator(line: str) -> str | None:
    """What Excel's first line says, ``sep=;``; None for any other line."""
    found = _ANNOUNCED.fullmatch(line.strip())
    return found[1] if found else None
