"""Bad input: named with its place, value and way out, and nothing half-written."""

from __future__ import annotations

import errno
import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError, UsageError

GOOD = "".join(f"u{user},i{item},{100 * user + item}\n" for user in range(6) for item in range(8))
HEADER = "user,item,time\n"


def text(content: str, name: str = "log.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode("latin-1"))
        return folder / name

    return make


def truncated_gzip(folder: Path) -> Path:
    path = folder / "log.csv.gz"
    path.write_bytes(gzip.compress((HEADER + GOOD).encode())[:-20])
    return path


def folder_of(**parts: bytes | pl.DataFrame) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "parts").mkdir()
        for name, content in parts.items():
            path = folder / "parts" / f"{name}.parquet"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.write_parquet(path)
        return folder / "parts"

    return make


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "log.csv", "w") as archive:
        archive.writestr("log.csv", HEADER + GOOD)
    return folder / "log.csv"


GOOD_PART = pl.DataFrame({"user": ["a"] * 9, "item": list("abcdefghi")})
NULL_PART = pl.DataFrame({"user": ["b"] * 3, "item": ["a", None, "c"]})

CASES = {
    "missing file": (lambda folder: folder / "nothing.csv", {}, ["nothing.csv", "no such file"]),
    "near miss": (lambda folder: text(GOOD)(folder).with_name("lag.csv"), {}, ["did you mean", "log.csv"]),
    "empty file": (text(""), {}, ["log.csv", "empty"]),
    "blank file": (text("\n\n"), {}, ["log.csv", "empty"]),
    "header only": (text(HEADER), {}, ["log.csv", "header and no rows"]),
    "no user column": (text("who,item\na,b\n"), {}, ["like a user", "who, item", "--user COLUMN"]),
    "no item column": (text("user,what\na,b\n"), {}, ["like an item", "user, what", "--item COLUMN"]),
    "headerless": (text("1\t2\t3\n4\t5\t6\n", "u.data"), {}, ["1, 2, 3", "--no-header"]),
    "asked column": (text(HEADER + GOOD), {"item": "itm"}, ["'itm'", "--item", "did you mean 'item'"]),
    "same column": (text(HEADER + GOOD), {"item": "user"}, ["two roles", "user=user, item=user"]),
    "twice in header": (text("user,item,item\na,b,c\n"), {}, ["line 1", "'item' twice"]),
    "word for time": (text(HEADER + GOOD + "u1,i2,soon\n"), {}, ["line 50", "'time'", "'soon'"]),
    "open quote": (text(HEADER + GOOD + 'u1,"i2,5\nu1,i3,6\n'), {}, ["line 50", "quote"]),
    "only words for time": (text(HEADER + "a,b,soon\n"), {}, ["line 2", "'soon'"]),
    "nan for time": (text(HEADER + GOOD + "u1,i2,nan\n"), {}, ["line 50", "'nan'"]),
    "no time": (text(HEADER + GOOD + "u1,i2,\n"), {}, ["line 50", "'time'", "empty"]),
    "no user": (text(HEADER + GOOD + ",i2,5\n"), {}, ["line 50", "'user'", "empty"]),
    "blank lines count": (text(HEADER + "\n\n" + GOOD + ",i2,5\n"), {}, ["line 52", "'user'"]),
    "blank item": (text(HEADER + GOOD + "u1,  ,5\n"), {}, ["line 50", "'item'", "empty"]),
    "too many fields": (text(HEADER + GOOD + "u1,i2,5,6\n"), {}, ["line 50", "4 fields", "names 3"]),
    "latin-1": (text(HEADER + GOOD + "u1,caf\xe9,5\n"), {}, ["line 50", "not UTF-8"]),
    "latin-1 late": (text(HEADER + GOOD * 200 + "u1,caf\xe9,5\n"), {}, ["line 9602", "not UTF-8"]),
    "one user": (text(HEADER + "a,b,1\na,c,2\na,d,3\n"), {}, ["one user", "'a'"]),
    "all filtered": (
        text(HEADER + GOOD), {"min_item_count": 7}, ["--min-item-count 7 dropped 48", "6 users", "lower"],
    ),
    "too short": (text(HEADER + GOOD), {"min_history": 9}, ["--min-history 9 dropped 48"]),
    "sessions too long": (text(HEADER + GOOD), {"session_length": 9}, ["0 sessions of 9"]),
    "unknown format": (text("just\nwords\n", "log.log"), {}, ["no known format", "'just'", "--format"]),
    "movielens": (text("1::2::3\n1::3::4\n", "r.dat"), {}, ["one user", "'1'"]),
    "wrong format": (text(HEADER + GOOD), {"format": "cvs"}, ["'cvs'", "did you mean 'csv'"]),
    "named parquet": (text(HEADER + GOOD, "log.parquet"), {}, ["PAR1", "log.parquet"]),
    "zip": (zipped, {}, ["zip archive", "unpack"]),
    "binary": (text("a\0b\0c", "log.bin"), {}, ["neither text nor Parquet"]),
    "truncated gzip": (truncated_gzip, {}, ["log.csv.gz", "truncated"]),
    "empty folder": (folder_of(), {}, ["no .parquet file"]),
    "torn part": (folder_of(a=GOOD_PART, b=b"PAR1 torn PAR1"), {}, ["b.parquet", "damaged"]),
    "other schema": (
        folder_of(a=GOOD_PART, b=GOOD_PART.with_columns(item=pl.lit(3))), {}, ["b.parquet", "'item'"],
    ),
    "null in a part": (folder_of(a=GOOD_PART, b=NULL_PART), {}, ["b.parquet, row 1", "'item'", "empty"]),
    "nested ids": (
        folder_of(a=pl.DataFrame({"user": ["a"], "item": [["x"]]})), {}, ["'item'", "List", "not ids"],
    ),
    "format of a folder": (folder_of(a=GOOD_PART), {"format": "csv"}, ["folder", "csv"]),
    "columns of sequences": (text("1 2 3\n4 5 6\n", "s.txt"), {"user": "u"}, ["no columns"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_source_is_named_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, options, words = CASES[case]
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CanetError) as caught:
        import_log(source, tmp_path / "made" / "out", ImportOptions(**options))
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "fix: " in message or "folder; --format" in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"min_history": 2}, "--min-history 2"),
        ({"min_item_count": 0}, "--min-item-count 0"),
        ({"session_length": 2}, "--session-length 2"),
        ({"session_gap_s": 0.0}, "--session-gap"),
        ({"title": "t"}, "--items-file"),
    ],
)
def test_options_that_make_no_sense(options: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ImportOptions(**options)


def test_sessions_need_times_or_no_gap(tmp_path: Path) -> None:
    source = text(HEADER + GOOD)(tmp_path)
    with pytest.raises(CanetError, match="--session-gap none"):
        import_log(source, tmp_path / "out", ImportOptions(time="none", session_length=4))
    options = ImportOptions(time="none", session_length=4, session_gap_s=None)
    assert import_log(source, tmp_path / "out", options).num_histories == 12


@pytest.mark.parametrize(
    ("items", "options", "words"),
    [
        ("item,title\nz1,A\n", {}, ["none of the log's items", "'i0'"]),
        ("thing,title\ni1,A\n", {}, ["like an item", "thing, title"]),
        ("item,words\ni1,A\n", {}, ["like a title", "--title COLUMN"]),
        ("item,words\ni1,A\n", {"title": "wrds"}, ["'wrds'", "did you mean 'words'"]),
        ("item,title\n", {}, ["header and no rows"]),
    ],
)
def test_bad_items_file(tmp_path: Path, items: str, options: dict, words: list[str]) -> None:
    source, table = text(HEADER + GOOD)(tmp_path), text(items, "items.csv")(tmp_path)
    with pytest.raises(CanetError) as caught:
        import_log(source, tmp_path / "out", ImportOptions(items_file=table, **options))
    assert all(word in str(caught.value) for word in [*words, "items.csv"]), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_items_file_is_named(tmp_path: Path) -> None:
    source = text(HEADER + GOOD)(tmp_path)
    with pytest.raises(CanetError, match="no such file"):
        import_log(source, tmp_path / "out", ImportOptions(items_file=tmp_path / "titles.csv"))


def test_no_space_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = text(HEADER + GOOD)(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(CanetError, match="no space left"):
        import_log(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [source]


def test_existing_output_stays_without_force(tmp_path: Path) -> None:
    source = text(HEADER + GOOD)(tmp_path)
    first = import_log(source, tmp_path / "out")
    with pytest.raises(CanetError, match="--force"):
        import_log(source, tmp_path / "out", ImportOptions(min_history=3))
    again = import_log(source, tmp_path / "out", ImportOptions(name="new"), force=True)
    assert (again.name, again.content_hash) == ("new", first.content_hash)


def test_failed_replacement_keeps_the_old(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = import_log(text(HEADER + GOOD)(tmp_path), out)
    with pytest.raises(CanetError, match="--min-history 50"):
        import_log(text(HEADER + GOOD)(tmp_path), out, ImportOptions(min_history=50), force=True)
    assert load_dataset(out).manifest == first.manifest


def test_force_does_not_delete_strangers(tmp_path: Path) -> None:
    source = text(HEADER + GOOD)(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(CanetError, match="not an artefact"):
        import_log(source, tmp_path / "home", force=True)
    assert (tmp_path / "home" / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_output_inside_a_file(tmp_path: Path) -> None:
    source = text(HEADER + GOOD)(tmp_path)
    with pytest.raises(CanetError, match=r"log\.csv: is a file"):
        import_log(source, source / "deep" / "out")
    assert source.read_text(encoding="utf-8") == HEADER + GOOD
