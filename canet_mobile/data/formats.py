"""What a log is written in: found from its bytes and its name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import polars as pl

from canet_mobile.data import parts
from canet_mobile.data.names import headed, number_like, time_like
from canet_mobile.data.source import FORMATS, Format, Source, announced_separator, one_blank, read_head
from canet_mobile.errors import CanetError, UsageError, nearest, unknown_name
from canet_mobile.files import disk_errors

MAX_BYTES = 64 << 30

_GZIP = b"\x1f\x8b"
_BINARY = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zX": "xz"}
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
_SPELLED = {"tab": "\t", "\\t": "\t", "blank": " ", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
_SEPARATORS = ("\t", "::", ",", ";", "|")
_NEARLY_ALL = 0.9  # of the lines, with as many words: a table with faults rather than histories
_PASS_FORMAT = f"pass --format with one of: {', '.join(FORMATS)}; or --separator"


def open_source(
    path: Path,
    scratch: Path,
    *,
    format: Format | None = None,
    header: bool = True,
    separator: str | None = None,
    max_bytes: int = MAX_BYTES,
    note: Callable[[str], None] = lambda message: None,
) -> Source:
    """Find out what a source is, from its content and its name.

    Args:
        path: a file, or a folder of Parquet files (hive-style sub-folders too).
        scratch: an existing folder for the decompressed copy of a gzipped file.
        format: what the user says it is; None finds out.
        header: whether the first line of a CSV or TSV file names the columns.
        separator: what the user says stands between two fields; None finds out.
        max_bytes: the most that a gzipped file may unpack to.
        note: told what was passed over.

    Raises:
        CanetError: missing, empty, truncated, not text, or of no known format.
    """
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if not path.exists():
        raise CanetError("no such file or folder", where=path, fix=_suggest_sibling(path))
    if path.is_dir():
        if format not in (None, "parquet") or separator is not None:
            asked = f"--format {format}" if format not in (None, "parquet") else "--separator"
            raise UsageError(f"is a folder; {asked} reads one file", where=path)
        return Source(path, parts.parquet_parts(path, note), path, "parquet")
    if not path.is_file():
        raise CanetError(
            "is a pipe or a device, and a log is read more than once",
            where=path,
            fix=f"write it to a file first: cat {path} > log.csv",
        )
    if path.stat().st_size == 0:
        raise CanetError("the file is empty", where=path, fix="check the export that made it")
    with path.open("rb") as file:
        magic = file.read(4)
    for signature, what in _BINARY.items():
        if magic.startswith(signature):
            raise CanetError(f"is {what}, which is not read", where=path, fix="unpack it first (.gz is read)")
    named_parquet = any(suffix.lower() == ".parquet" for suffix in path.suffixes)
    if magic == parts.PARQUET or named_parquet or format == "parquet":
        if magic != parts.PARQUET:
            raise CanetError(
                "is not a Parquet file (it does not start with PAR1)", where=path, fix=_PASS_FORMAT
            )
        if format not in (None, "parquet") or separator is not None:
            asked = f"not {format}" if format not in (None, "parquet") else "which has no separator"
            raise CanetError(f"is a Parquet file, {asked}", where=path, fix="leave the option out")
        return Source(path, (path,), path, "parquet")
    plain = _decompress(path, scratch / "source.txt", max_bytes) if magic.startswith(_GZIP) else path
    return _open_text(path, plain, format, header, _spelled(separator))


def _open_text(path: Path, plain: Path, format: Format | None, header: bool, separator: str | None) -> Source:
    head, skip = read_head(path, plain)
    announced = announced_separator(head[0])
    if announced:
        head, skip, separator = head[1:], skip + 1, separator or announced
        format = format or "csv"
    if not head:
        raise CanetError("holds a header and no rows", where=path, fix="check the export that made it")
    if format is None and separator is None:
        _refuse_json(head[0], path)
    found, guess, named = _detect(head, plain, path, separator) if format is None else (format, None, True)
    chosen = separator or guess or _separator_of(found, head[0])
    if found == "sequences":
        return Source(path, (path,), plain, found, False, " ", skip)
    header = header and named
    if header and len(head) < 2:
        raise CanetError("holds a header and no rows", where=path, fix="check the export that made it")
    return Source(path, (path,), plain, found, header, chosen, skip, _quoting(chosen, head))


def _detect(
    head: list[str], plain: Path, path: Path, separator: str | None
) -> tuple[Format, str | None, bool]:
    """Format, separator when it is not the format's own, and whether the first line can be a header.

    Raises:
        CanetError: nothing fits.
    """
    first = head[0]
    if ":" in first:
        for mark in [separator] if separator else ["\t", ",", " ", ";"]:
            fields = first.split(mark) if mark != " " else first.split()
            typed = [":" in field and field.rpartition(":")[2] in _RECBOLE_TYPES for field in fields]
            if len(typed) > 1 and all(typed):
                return "recbole", mark, True
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if separator is None and ".csv" in suffixes:
        separator = "," if "," in first else ";" if ";" in first else None
    elif separator is None and suffixes & {".tsv", ".inter"} and "\t" in first:
        separator = "\t"
    if separator is not None:
        return ("tsv" if separator == "\t" else "csv"), separator, True
    for mark in _SEPARATORS:
        widths = {line.count(mark) for line in head}
        if headed([field.strip('"') for field in first.split(mark)]):
            return ("tsv" if mark == "\t" else "csv"), mark, True
        if len(widths) == 1 and widths != {0} and not (mark == "\t" and len(head) == 1):
            return ("tsv" if mark == "\t" else "csv"), mark, True
    if not any(mark in first for mark in (",", ";", "::")) and len(first.split()) > 1:
        return _blank_separated(head, plain, path)
    for mark in _SEPARATORS[1:]:
        if mark in first:  # rows that differ in width are named when they are read
            return "csv", mark, True
    raise CanetError(f"no known format; the first line is {first[:80]!r}", where=path, fix=_PASS_FORMAT)


def _blank_separated(head: list[str], plain: Path, path: Path) -> tuple[Format, str | None, bool]:
    """Whether lines of blank-separated words are a table or one history each.

    A table begins with a line of known names; or it has as many words on every line of the file, and names
    users more than once or ends in a time. What could be either is refused.

    Raises:
        CanetError: it could be either.
    """
    words = [line.split() for line in head]
    if headed(words[0]):
        return "csv", " ", True
    lines, widths, users = _shape(plain)
    width, most = max(widths.items(), key=lambda pair: pair[1])
    repeated = users < lines
    timed = width > 2 and all(time_like(line[-1]) for line in words)
    counted = width > 2 and all(number_like(line[-1], least=1e7) for line in words)
    if most == lines:
        if width == 2 or (width == 3 and repeated) or (width in (3, 4) and (timed or (counted and repeated))):
            return "csv", " ", False
        if not repeated and not timed and not counted:
            return "sequences", None, False
    elif not repeated or most < _NEARLY_ALL * lines:
        return "sequences", None, False
    signs = "the last one looks like a time" if timed or counted else "some stand first on more than one"
    every = "every line holds" if most == lines else f"{most:,} of {lines:,} lines hold"
    raise CanetError(
        f"{every} {width} words, and {signs}: is it a table, or one history a line?",
        where=path,
        fix="pass --separator blank --no-header --user column_1 --item column_2 (and --time), "
        "or --format sequences",
    )


def _shape(plain: Path) -> tuple[int, dict[int, int], int]:
    """Lines that are not blank, how many of them hold how many words, and how many first words there are."""
    words = pl.scan_lines(plain, glob=False).select(one_blank(pl.col("line"))).filter(pl.col("line") != "")
    counts = words.select(width=pl.col("line").str.count_matches(" ", literal=True) + 1)
    widths = dict(counts.group_by("width").len().collect(engine="streaming").iter_rows())
    users = words.select(pl.col("line").str.split(" ").list.first().n_unique()).collect(engine="streaming")
    return sum(widths.values()), widths, int(users.item())


def _separator_of(found: Format, first: str) -> str:
    if found == "csv":
        return ";" if "," not in first and ";" in first else ","
    return {"tsv": "\t", "recbole": "\t", "sequences": " "}.get(found, ",")


def _quoting(separator: str, head: list[str]) -> bool:
    """Whether quotation marks enclose fields: in CSV; in a table with tabs only when they do throughout."""
    if separator in (",", ";", "|"):
        return True
    if separator != "\t":
        return False
    enclosed = all(
        field[:1] == '"' or field[-1:] == '"' or not field.strip('-+.0123456789eE"')
        for line in head
        for field in line.split("\t")
    )
    return enclosed and any(field[:1] == '"' for field in head[0].split("\t"))


def _spelled(separator: str | None) -> str | None:
    """A separator as it is, from its name or itself."""
    if separator is None:
        return None
    found = _SPELLED.get(separator.lower(), separator)
    if found in ("", '"', "\n", "\r") or (len(found) > 1 and found != "::"):
        raise UsageError(
            f"--separator {separator!r} is none",
            fix="pass one character, :: or one of: " + ", ".join(name for name in _SPELLED if name.isalpha()),
        )
    return found


def _refuse_json(first: str, path: Path) -> None:
    """Say what JSON is, and how to make a table of it."""
    start = first.lstrip()[:1]
    if start not in ("{", "["):
        return
    what, read = ("JSON lines", "read_ndjson") if start == "{" else ("JSON", "read_json")
    script = f"import polars as pl; pl.{read}({path.name!r}).write_parquet('log.parquet')"
    raise CanetError(
        f"is {what}, which is not read", where=path, fix=f'make Parquet of it: python -c "{script}"'
    )


def _decompress(path: Path, target: Path, max_bytes: int) -> Path:
    """A plain copy of a gzipped file: its checksum is verified, and Polars can map it."""
    try:
        with disk_errors(target), gzip.GzipFile(path, "rb") as packed, target.open("wb") as plain:
            _copy(packed, plain, path, max_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CanetError(
            f"truncated or damaged gzip ({error})", where=path, fix="copy or download the file again"
        ) from error
    return target


def _copy(packed: gzip.GzipFile, plain: IO[bytes], path: Path, max_bytes: int) -> None:
    while block := packed.read(1 << 20):
        if packed.tell() > max_bytes:
            raise CanetError(
                f"unpacks to more than {max_bytes:,} bytes",
                where=path,
                fix="if that is right, pass --max-bytes with a larger number",
            )
        plain.write(block)


def _suggest_sibling(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = nearest(path.name, siblings)
    return f"did you mean {path.parent / guess}?" if guess else "check the path"
