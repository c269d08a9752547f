"""Folders of Parquet: what is read, what is not and is named, and partitions as text."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from test_data_import import histories

from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError

OPTIONS = ImportOptions(min_item_count=1, min_history=3)


def part(path: Path, user: str | None, *, items: str = "abcd", start: int = 1_600_000_000) -> None:
    table = pl.DataFrame({"item_id": list(items), "timestamp": [start + n for n in range(len(items))]})
    if user is not None:
        table = table.insert_column(0, pl.Series("user_id", [user] * len(items)))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)


def test_partition_values_are_text_as_in_the_path(tmp_path: Path) -> None:
    users = {"007": "007", "07": "07", "7": "7", "1e5": "1e5", "100000": "100000", "a%20b": "a b"}
    for name in users:
        part(tmp_path / "log" / f"user_id={name}" / "part", None)
    found = histories(import_log(tmp_path / "log", tmp_path / "out", OPTIONS))
    assert found == {user: list("abcd") for user in users.values()}


def test_an_item_partition_keeps_its_zeros(tmp_path: Path) -> None:
    for number, item in enumerate(("0108", "108", "0109")):
        table = pl.DataFrame({"user_id": ["u", "v"], "timestamp": [1_600_000_000 + number] * 2})
        path = tmp_path / "log" / f"article_id={item}" / "p.parquet"
        path.parent.mkdir(parents=True)
        table.write_parquet(path)
    found = histories(import_log(tmp_path / "log", tmp_path / "out", OPTIONS))
    assert found == {user: ["0108", "108", "0109"] for user in "uv"}


def test_a_part_is_known_by_its_first_bytes_not_by_its_name(tmp_path: Path) -> None:
    for number, name in enumerate(("part-0.parquet", "part-1.PARQUET", "part-2", "part-3.snappy")):
        part(tmp_path / "log" / name, f"u{number}")
    assert len(histories(import_log(tmp_path / "log", tmp_path / "out", OPTIONS))) == 4


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    for number in range(2):
        part(tmp_path / "log" / f"part-{number}", f"u{number}")
    part(tmp_path / "log" / "_temporary" / "half.parquet", "half")
    (tmp_path / "log" / "more.csv").write_text("user_id,item_id\n", encoding="utf-8")
    (tmp_path / "log" / "_SUCCESS").touch()
    notes: list[str] = []
    found = import_log(tmp_path / "log", tmp_path / "out", OPTIONS, progress=notes.append)
    assert sorted(histories(found)) == ["u0", "u1"]
    said = [note for note in notes if "not read" in note]
    assert len(said) == 1 and "2 files" in said[0] and "_temporary/half.parquet, more.csv" in said[0]


@pytest.mark.parametrize("outsider", ["p.parquet", "other=1/p.parquet", "user_id=a/day=1/p.parquet"])
def test_a_file_outside_its_partition_is_named(tmp_path: Path, outsider: str) -> None:
    for user in ("a", "b", "c"):
        part(tmp_path / "log" / f"user_id={user}" / "part.parquet", None)
    part(tmp_path / "log" / outsider, None)
    with pytest.raises(CanetError, match=rf"{outsider}: stands in"):
        import_log(tmp_path / "log", tmp_path / "out", OPTIONS)


def test_a_torn_part_is_named(tmp_path: Path) -> None:
    part(tmp_path / "log" / "a.parquet", "a")
    (tmp_path / "log" / "b.Parquet").write_bytes(b"")
    with pytest.raises(CanetError, match=r"b\.Parquet: truncated"):
        import_log(tmp_path / "log", tmp_path / "out", OPTIONS)


def test_a_folder_of_other_things_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("user_id,item_id\n", encoding="utf-8")
    with pytest.raises(CanetError, match=r"no \.parquet file; it holds a\.csv"):
        import_log(tmp_path / "log", tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_missing_id_in_a_float_column_is_refused_with_its_row(tmp_path: Path, value: float | None) -> None:
    for name, users in (("a", [1.0] * 4 + [2.0] * 4), ("b", [3.0] * 5 + [value] + [3.0] * 2)):
        table = pl.DataFrame(
            {"user_id": users, "item_id": list("abcdefgh")}, schema_overrides={"user_id": pl.Float64}
        )
        (tmp_path / "log").mkdir(exist_ok=True)
        table.write_parquet(tmp_path / "log" / f"{name}.parquet")
    with pytest.raises(CanetError, match=r"b\.parquet, row 5 \(from 0\): column 'user_id'"):
        import_log(tmp_path / "log", tmp_path / "out", OPTIONS)


def test_a_row_of_nulls_is_no_blank_line(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": ["a"] * 4 + [None] + ["b"] * 4, "item_id": [*"abcd", None, *"abcd"]})
    table.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(CanetError, match=r"row 4 .* is empty"):
        import_log(tmp_path / "log.parquet", tmp_path / "out", OPTIONS)


def test_a_folder_with_a_pattern_for_a_name(tmp_path: Path) -> None:
    for user in ("a", "b"):
        part(tmp_path / "log[1]" / f"user_id={user}" / "part *?.parquet", None)
        part(tmp_path / "log1" / f"user_id=WRONG{user}" / "part.parquet", None)
    found = histories(import_log(tmp_path / "log[1]", tmp_path / "out", OPTIONS))
    assert sorted(found) == ["a", "b"]
    shutil.rmtree(tmp_path / "log[1]")


def test_a_linked_partition_is_read(tmp_path: Path) -> None:
    for user in ("a", "b"):
        part(tmp_path / "log" / f"user_id={user}" / "part", None)
    part(tmp_path / "elsewhere" / "part", None)
    (tmp_path / "log" / "user_id=c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "log" / "user_id=a" / "_loop").symlink_to(tmp_path / "log")
    assert sorted(histories(import_log(tmp_path / "log", tmp_path / "out", OPTIONS))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("mark", "name"),
    [("_delta_log/0.json", "Delta Lake"), (".hoodie/x", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")],
)
def test_a_table_with_a_history_is_refused(tmp_path: Path, mark: str, name: str) -> None:
    part(tmp_path / "log" / "part.parquet", "a")
    (tmp_path / "log" / mark).parent.mkdir()
    (tmp_path / "log" / mark).touch()
    with pytest.raises(CanetError, match=f"{name} table"):
        import_log(tmp_path / "log", tmp_path / "out", OPTIONS)
