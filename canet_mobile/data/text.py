"""What a text file holds, counted in its bytes, and the careful way to read one.

Polars takes any quotation mark for the beginning or end of a quoted field. Where each of them is one, and no
field holds a line end, that is right and fast. Everything else goes through Python's csv, which knows that a
mark inside a field is a character: `rewrite` reads such a file once and leaves Parquet behind.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from canet_mobile.errors import CanetError

LINE = "\x1fline"  # column of a rewritten part: the line on which the row begins
_BLOCK = 1 << 24
_ROWS_PER_PART = 100_000
_BOM = b"\xef\xbb\xbf"
_TAB, _NEWLINE, _RETURN, _BLANK, _QUOTE = b'\t\n\r "'

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Survey:
    """A text file in figures.

    Attributes:
        lines: lines that hold more than blanks.
        quotes: whether it holds a quotation mark.
        returns: whether a line ends in CR alone, as on old Macs.
        plain: whether every quotation mark opens or closes a field, no field holds a line end and no line
            ends in CR alone; true of a file without marks and such lines.
    """

    lines: int
    quotes: bool
    returns: bool
    plain: bool


def survey(text: Path, separator: str, where: Path, *, quoting: bool) -> Survey:
    """Look at every byte once.

    Args:
        text: the plain text.
        separator: between two fields.
        where: the file to name in errors.
        quoting: whether quotation marks mean anything in this format.

    Raises:
        CanetError: a NUL byte; names its line.
    """
    mark = ord(separator) if len(separator) == 1 else _BLANK
    lines = before = open_quotes = 0
    quotes, returns, plain = False, False, True
    with text.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        for block in _blocks(file):
            data = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(data == _NEWLINE)
            if b"\0" in block:
                line = before + block[: block.index(b"\0")].count(b"\n") + 1
                raise CanetError(
                    "holds a NUL byte, which is no text", where=f"{where}, line {line}", fix="export it again"
                )
            lines += _filled(block, data, ends, mark)
            before += len(ends)
            returns |= b"\r" in block and block.count(b"\r") != block.count(b"\r\n")
            if quoting and b'"' in block:
                quotes = True
                plain = plain and _regular(data, ends, open_quotes, mark)
                open_quotes = (open_quotes + block.count(b'"')) % 2
            elif open_quotes and len(ends):
                plain = False
    return Survey(lines, quotes, returns, plain and not open_quotes and not returns)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The file in blocks of whole lines."""
    while block := file.read(_BLOCK):
        yield block if block.endswith(b"\n") else block + file.readline()


def _filled(block: bytes, data: Bytes, ends: NDArray[np.int64], mark: int) -> int:
    """How many lines hold more than blanks; a separator is no blank."""
    begins = np.concatenate([[0], ends + 1])
    begins = begins[begins < len(data)]
    blanks = bytes({_TAB, _RETURN, _BLANK} - ({_TAB} if mark == _TAB else set()))
    empty = 0
    for begin in begins[np.isin(data[begins], [*blanks, _NEWLINE])].tolist():
        end = block.find(b"\n", begin)
        empty += not block[begin : end if end >= 0 else None].strip(blanks + b"\n")
    return len(begins) - empty


def _regular(data: Bytes, ends: NDArray[np.int64], open_quotes: int, mark: int) -> bool:
    """Whether the marks of a block come in pairs that open and close fields which hold no line end.

    Where that is so, taking every mark for a switch, as Polars does, and reading as CSV come to the same.
    """
    at = np.flatnonzero(data == _QUOTE)
    opens = (np.arange(len(at)) + open_quotes) % 2 == 0
    before = np.where(at > 0, data[at - 1], _NEWLINE)
    after = np.where(at + 1 < len(data), data[np.minimum(at + 1, len(data) - 1)], _NEWLINE)
    fits = np.where(
        opens,
        np.isin(before, [mark, _NEWLINE, _QUOTE]),
        np.isin(after, [mark, _NEWLINE, _RETURN, _QUOTE]),
    )
    inside = (np.searchsorted(at, ends) + open_quotes) % 2
    return bool(fits.all() and not inside.any())


def rewrite(
    text: Path,
    scratch: Path,
    names: Sequence[str],
    *,
    separator: str,
    skip: int,
    header: bool,
    quoting: bool,
    looks_like_row: Callable[[Sequence[str]], bool],
    where: Path,
) -> tuple[Path, ...]:
    """Read a text file as Python's csv does and write its rows as Parquet parts of text columns.

    A mark that does not open a field is a character. A quoted field may hold line ends, unless every line of
    it reads as a row of its own: then a lone mark at the start of a field has swallowed rows, or it has not,
    and nobody can tell.

    Args:
        text: the plain text, UTF-8.
        scratch: an existing folder for the parts.
        names: of the columns; shorter rows are filled up with nulls.
        separator, skip, header, quoting: how the file is written; ``skip`` lines stand before the header.
        looks_like_row: whether the fields of one line, split without regard to quotes, make a row.
        where: the file to name in errors.

    Returns:
        The parts, in order. Their column `LINE` holds the line on which each row begins.

    Raises:
        CanetError: an open quote, more fields than names, or what cannot be decided; names the line.
        UnicodeDecodeError: not UTF-8.
    """
    parts: list[Path] = []
    rows: list[list[str | None]] = []
    starts: list[int] = []
    spans: list[tuple[int, int]] = []  # first and last line of rows that run over several

    def flush() -> None:
        table = {
            name: pl.Series(values, dtype=pl.String)
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }
        part = scratch / f"rows-{len(parts):05d}.parquet"
        pl.DataFrame({**table, LINE: np.array(starts, np.int64)}).write_parquet(part, compression="lz4")
        parts.append(part)
        rows.clear()
        starts.clear()

    marks: Literal[0, 3] = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    width, last = len(names), skip
    with text.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(skip):
            file.readline()
        reader = csv.reader(file, delimiter=separator, strict=True, quoting=marks)
        try:
            for fields in reader:
                begin, last = last + 1, skip + reader.line_num
                if last > begin:
                    spans.append((begin, last))
                if len(fields) < 2 and not (fields and fields[0].strip()):
                    continue
                if header:
                    header = False
                    continue
                if len(fields) > width:
                    raise too_many_fields(len(fields), width, where, begin)
                row: list[str | None] = [*fields]
                rows.append(row if len(row) == width else row + [None] * (width - len(row)))
                starts.append(begin)
                if len(rows) == _ROWS_PER_PART:
                    flush()
        except csv.Error as broken:
            raise CanetError(
                f"holds a quote that is not closed or not doubled ({broken})",
                where=f"{where}, line {last + 1}",
                fix='close it, or write "" for a quote',
            ) from broken
    if rows:
        flush()
    _refuse_swallowed(text, spans, separator, width, looks_like_row, where)
    return tuple(parts)


def _refuse_swallowed(
    text: Path,
    spans: Sequence[tuple[int, int]],
    separator: str,
    width: int,
    looks_like_row: Callable[[Sequence[str]], bool],
    where: Path,
) -> None:
    """Refuse the first quoted field that runs over lines which are all rows of their own."""
    if not spans:
        return
    with text.open(encoding="utf-8-sig", newline="") as file:
        lines = enumerate(file, 1)
        for begin, end in spans:
            held = [line.rstrip("\r\n").split(separator) for number, line in _between(lines, begin, end)]
            if all(len(fields) == width and looks_like_row(fields) for fields in held):
                raise CanetError(
                    f"a quoted field runs to line {end}, and every line of it reads as a row of its own: "
                    "is the quotation mark a character?",
                    where=f"{where}, line {begin}",
                    fix='if it is, write the field as "…""…"; if not, write the field on one line; '
                    "or write the log as Parquet",
                )


def _between(lines: Iterator[tuple[int, str]], begin: int, end: int) -> Iterator[tuple[int, str]]:
    """The lines from ``begin`` to ``end``, and no more of the iterator than that."""
    for number, line in lines:
        if number >= begin:
            yield number, line
        if number == end:
            return


def too_many_fields(found: int, width: int, where: Path, line: int) -> CanetError:
    """The error for a line with more fields than there are columns."""
    return CanetError(
        f"has {found} fields, the header names {width}",
        where=f"{where}, line {line}",
        fix="quote fields that hold the separator",
    )
