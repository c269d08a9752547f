"""Reading a log, whatever it is written in: find the format, the columns and the unit of time.

Every source becomes one Polars LazyFrame with the columns ``user``, ``item`` (both as text) and, when there
is one, ``time`` (as stored), in file order.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl

from canet_mobile.errors import CanetError, UsageError, nearest, unknown_name
from canet_mobile.files import disk_errors

Format = Literal["csv", "tsv", "parquet", "recbole", "sequences"]
FORMATS: tuple[Format, ...] = ("csv", "tsv", "parquet", "recbole", "sequences")

USER_NAMES = (
    "user_id", "userid", "user", "uid", "session_id", "sessionid", "session", "customer_id", "customerid",
    "customer", "visitor_id", "visitorid", "member_id", "reviewerid", "account_id",
)  # fmt: skip
ITEM_NAMES = (
    "item_id", "itemid", "item", "iid", "product_id", "productid", "product", "movie_id", "movieid",
    "track_id", "trackid", "song_id", "article_id", "articleid", "asin", "parent_asin", "sku", "stockcode",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "time", "ts", "datetime", "date", "event_time", "eventtime", "created_at", "timestamps",
    "unixreviewtime", "invoicedate",
)  # fmt: skip
TITLE_NAMES = ("title", "item_title", "movie_title", "product_title", "name", "item_name", "product_name",
               "description")  # fmt: skip

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BINARY = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zX": "xz"}
_HEAD_BYTES = 1 << 16
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
_PASS_FORMAT = f"pass --format with one of: {', '.join(FORMATS)}"


@dataclass(frozen=True)
class Source:
    """A log that was found and opened, not yet read.

    Attributes:
        path: what the user named.
        files: every file of it, in the order they are read.
        text: the plain text to read (a decompressed copy when the source is gzipped).
        format: one of `FORMATS`.
        header: whether the first line names the columns.
        separator: between the fields of a text format.
    """

    path: Path
    files: tuple[Path, ...]
    text: Path
    format: Format
    header: bool = True
    separator: str = ","

    @property
    def lines_before_rows(self) -> int:
        """Lines of the file before row 0."""
        return int(self.header and self.format in ("csv", "tsv", "recbole"))


def open_source(path: Path, scratch: Path, *, format: Format | None = None, header: bool = True) -> Source:
    """Find out what a source is, from its content and its name.

    Args:
        path: a file, or a folder of Parquet files (hive-style sub-folders too).
        scratch: an existing folder for the decompressed copy of a gzipped file.
        format: what the user says it is; None finds out.
        header: whether the first line of a CSV or TSV file names the columns.

    Raises:
        CanetError: missing, empty, truncated, not text, or of no known format.
    """
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if not path.exists():
        raise CanetError("no such file or folder", where=path, fix=_suggest_sibling(path))
    if path.is_dir():
        if format not in (None, "parquet"):
            raise UsageError(f"is a folder; --format {format} reads one file", where=path)
        return Source(path, _parquet_parts(path), path, "parquet")
    if path.stat().st_size == 0:
        raise CanetError("the file is empty", where=path, fix="check the export that made it")
    with path.open("rb") as file:
        magic = file.read(4)
    for signature, what in _BINARY.items():
        if magic.startswith(signature):
            raise CanetError(f"is {what}, which is not read", where=path, fix="unpack it first (.gz is read)")
    named_parquet = ".parquet" in path.suffixes
    if magic == _PARQUET or named_parquet or format == "parquet":
        if magic != _PARQUET:
            raise CanetError(
                "is not a Parquet file (it does not start with PAR1)", where=path, fix=_PASS_FORMAT
            )
        if format not in (None, "parquet"):
            raise CanetError(f"is a Parquet file, not {format}", where=path, fix="leave --format out")
        return Source(path, (path,), path, "parquet")
    text = _decompress(path, scratch / "source.txt") if magic.startswith(_GZIP) else path
    head = _read_head(path, text)
    found = format or detect_text(head, path)
    separator = {"csv": ",", "tsv": "\t", "recbole": "\t", "sequences": " "}[found]
    if found == "csv" and "," not in head[0] and ";" in head[0]:
        separator = ";"
    if found != "sequences" and header and len(head) < 2:
        raise CanetError("holds a header and no rows", where=path, fix="check the export that made it")
    return Source(path, (path,), text, found, header, separator)


def detect_text(head: list[str], path: Path) -> Format:
    """The format of a text file, from its first lines and its name.

    Raises:
        CanetError: nothing fits.
    """
    first = head[0]
    fields = first.split("\t")
    if all(field.rpartition(":")[2] in _RECBOLE_TYPES and ":" in field for field in fields):
        return "recbole"
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & {".tsv", ".inter"} and "\t" in first:
        return "tsv"
    if ".csv" in suffixes and ("," in first or ";" in first):
        return "csv"
    for separator, name in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        widths = {line.count(separator) for line in head}
        if len(widths) == 1 and widths != {0} and not (separator == "\t" and len(head) == 1):
            return name  # type: ignore[return-value]
    if not any(mark in first for mark in (",", ";", "::")) and len(first.split()) > 1:
        return "sequences"
    raise CanetError(f"no known format; the first line is {first[:80]!r}", where=path, fix=_PASS_FORMAT)


def column_names(source: Source) -> list[str]:
    """The columns of a table, without RecBole's types.

    Raises:
        CanetError: the header or a Parquet footer cannot be read, or a name stands twice.
    """
    if source.format == "parquet":
        return list(scan_table(source).collect_schema().names())
    first = _read_head(source.path, source.text)[0]
    raw = pl.read_csv(
        (first + "\n").encode(), has_header=False, separator=source.separator, infer_schema=False,
        quote_char=_quote(source),
    ).row(0)  # fmt: skip
    if not source.header:
        return [f"column_{number}" for number in range(1, len(raw) + 1)]
    names = [str(name or "").strip() for name in raw]
    if source.format == "recbole":
        names = [name.partition(":")[0] for name in names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise CanetError(
            f"the header names {sorted(twice)[0]!r} twice", where=f"{source.path}, line 1", fix="rename one"
        )
    return names


def scan_table(source: Source) -> pl.LazyFrame:
    """The whole source as a LazyFrame in file order; text formats are not guessed at: every field is text."""
    if source.format == "parquet":
        return pl.scan_parquet(
            list(source.files), hive_partitioning=source.path.is_dir(), try_parse_hive_dates=False
        )
    if source.format == "sequences":
        lines = pl.scan_csv(
            source.text, has_header=False, separator="\x1f", quote_char=None, infer_schema=False,
            new_columns=["line"],
        ).drop_nulls()  # fmt: skip
        words = pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
        return lines.select(user=words.list.first(), item=words.list.slice(1)).explode("item").drop_nulls()
    names = column_names(source)
    return pl.scan_csv(
        source.text, has_header=source.header, separator=source.separator, infer_schema=False,
        new_columns=names, quote_char=_quote(source),
    )  # fmt: skip


def choose_column(
    role: str, names: list[str], known: tuple[str, ...], asked: str | None, where: object
) -> str | None:
    """The column for a role: the one asked for, else the first known name that is there, else None.

    Raises:
        UsageError: the column asked for is not there; lists what is, with the nearest name.
    """
    if asked is not None:
        if asked in names:
            return asked
        guess = nearest(asked, names)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UsageError(
            f"no column {asked!r} (--{role})", where=where, fix=f"{hint}columns: {', '.join(names)}"
        )
    lowered = {name.lower().replace(" ", "_"): name for name in reversed(names)}
    return next((lowered[name] for name in known if name in lowered), None)


def _quote(source: Source) -> str | None:
    return None if source.format == "recbole" else '"'


def _read_head(path: Path, text: Path) -> list[str]:
    """The first whole lines that are not blank."""
    with text.open("rb") as file:
        block = file.read(_HEAD_BYTES)
    if b"\0" in block:
        raise CanetError("is neither text nor Parquet", where=path, fix="convert it to CSV or Parquet")
    whole = block.rpartition(b"\n")[0] if len(block) == _HEAD_BYTES and b"\n" in block else block
    try:
        lines = [line for line in whole.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1
        raise CanetError("is not UTF-8", where=f"{path}, line {line}", fix="convert it to UTF-8") from None
    if not lines:
        raise CanetError("the file is empty", where=path, fix="check the export that made it")
    return lines[:200]


def _decompress(path: Path, target: Path) -> Path:
    """A plain copy of a gzipped file: its checksum is verified, and Polars can map it."""
    try:
        with disk_errors(target), gzip.GzipFile(path, "rb") as packed, target.open("wb") as plain:
            _copy(packed, plain)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CanetError(
            f"truncated or damaged gzip ({error})", where=path, fix="copy or download the file again"
        ) from error
    return target


def _copy(packed: gzip.GzipFile, plain: IO[bytes]) -> None:
    while block := packed.read(1 << 20):
        plain.write(block)


def _parquet_parts(path: Path) -> tuple[Path, ...]:
    """The Parquet files of a folder in sorted order; what Spark hides (``_``, ``.``) is skipped."""
    parts = [
        part
        for part in sorted(path.rglob("*.parquet"))
        if part.is_file() and not any(name[0] in "_." for name in part.relative_to(path).parts)
    ]
    if not parts:
        raise CanetError(
            "the folder holds no .parquet file", where=path, fix="name a file, or the right folder"
        )
    return tuple(parts)


def _suggest_sibling(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = nearest(path.name, siblings)
    return f"did you mean {path.parent / guess}?" if guess else "check the path"
