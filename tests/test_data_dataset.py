"""A dataset folder is what its manifest says, or it is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from canet_mobile.data.dataset import Content, Dataset, content_hash, load_dataset, write_dataset
from canet_mobile.data.describe import describe, seen_before
from canet_mobile.data.popularity import head_items, head_users, training_counts
from canet_mobile.errors import CanetError
from canet_mobile.files import describe_files
from canet_mobile.schema import validate

ABOUT = {
    "name": "tiny",
    "sources": [{"name": "log.csv", "bytes": 1, "sha256": "0" * 64}],
    "format": "csv",
    "columns": {"user": "u", "item": "i", "time": "t", "title": None},
    "time_unit": "s",
    "options": {"min_item_count": 1, "min_history": 3, "session_length": None, "session_gap_s": None},
    "stages": {
        "read": 9, "dropped_sessions": 0, "dropped_rare_items": 0, "dropped_short_histories": 0, "rounds": 1,
        "kept": 9,
    },
}  # fmt: skip


def make(folder: Path, histories: list[list[int]], num_items: int, times: bool = True) -> Dataset:
    """A dataset of the given histories."""
    items = np.array([item for history in histories for item in history], np.int32)
    content = Content(
        offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
        items=items,
        times=np.arange(len(items), dtype=np.int64) * 86_400_000_000 if times else None,
        user_ids=pl.Series([f"user {n}" for n in range(len(histories))]),
        item_ids=pl.Series([f"item {n}" for n in range(1, num_items + 1)]),
        titles=pl.Series(['é\n"title"'] + [None] * (num_items - 1), dtype=pl.String),
        users=len(histories),
    )
    return write_dataset(folder, content, ABOUT)


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    return make(tmp_path / "tiny", [[1, 2, 1], [3, 3, 3, 2], [2, 1, 2, 2, 1]], 3)


def resign(folder: Path, **changes: object) -> None:
    """Make the manifest agree with the files again, so that only the content can be refused."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest |= {"files": describe_files(folder, ["items.parquet", "sequences.parquet"]), **changes}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_what_is_written_is_what_is_loaded(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    histories = [generator.integers(1, 50, generator.integers(3, 40)).tolist() for _ in range(300)]
    dataset = make(tmp_path / "set", histories, 49)
    flat = [item for history in histories for item in history]
    assert dataset.items.dtype == np.int32 and dataset.offsets.dtype == np.int64
    assert dataset.items.tolist() == flat
    assert np.diff(dataset.offsets).tolist() == [len(history) for history in histories]
    assert dataset.user_ids() == [f"user {n}" for n in range(300)]
    assert dataset.times().tolist() == [n * 86_400_000_000 for n in range(len(flat))]
    table = dataset.item_table()
    assert table.schema == {"index": pl.Int32, "item_id": pl.String, "title": pl.String, "count": pl.Int64}
    assert table["index"].to_list() == list(range(1, 50))
    assert table["count"].to_list() == [flat.count(n) for n in range(1, 50)]
    assert (dataset.num_items, dataset.num_histories, dataset.name) == (49, 300, "tiny")


def test_a_large_set_is_written_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canet_mobile.data.dataset._HISTORIES_PER_SLICE", 7)
    histories = [[n % 5 + 1] * (3 + n % 4) for n in range(50)]
    dataset = make(tmp_path / "set", histories, 5)
    assert dataset.items.tolist() == [item for history in histories for item in history]
    assert dataset.times().tolist() == [n * 86_400_000_000 for n in range(len(dataset.items))]


def test_content_hash_tells_histories_and_names_apart() -> None:
    offsets, items = np.array([0, 3, 6]), np.array([1, 2, 1, 2, 2, 1], np.int32)
    hashes = {
        content_hash(offsets, items, ["a", "b"]),
        content_hash(offsets, items[::-1], ["a", "b"]),
        content_hash(np.array([0, 2, 6]), items, ["a", "b"]),
        content_hash(offsets, items, ["b", "a"]),
        content_hash(offsets, items, ["ab", ""]),
        content_hash(offsets, items, ["a", "b", "c"]),
    }
    assert len(hashes) == 6


@pytest.mark.parametrize("name", ["items.parquet", "sequences.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damaged_file_is_named(tiny: Dataset, name: str, damage: str) -> None:
    path = tiny.directory / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-1], "grow": content + b"x"}.get(damage, content))
    if damage == "remove":
        path.unlink()
    with pytest.raises(CanetError) as caught:
        load_dataset(tiny.directory)
    assert name in str(caught.value) and "fix: " in str(caught.value)


@pytest.mark.parametrize("wrong", [0, 4, -1])
def test_ids_outside_the_table_are_named(tiny: Dataset, wrong: int) -> None:
    path = tiny.directory / "sequences.parquet"
    rows = pl.read_parquet(path).with_columns(items=pl.Series([[1, 2, 1], [3, 3, wrong, 2], [2, 1, 2, 2, 1]]))
    rows.write_parquet(path)
    resign(tiny.directory)
    with pytest.raises(CanetError, match=f"history 1 holds item {wrong}, but ids run from 1 to 3"):
        load_dataset(tiny.directory)


def test_a_null_item_is_refused(tiny: Dataset) -> None:
    path = tiny.directory / "sequences.parquet"
    rows = pl.Series([[1, 2, 1], [3, 3, None, 2], [2, 1, 2, 2, 1]], dtype=pl.List(pl.Int32))
    pl.read_parquet(path).with_columns(items=rows).write_parquet(path)
    resign(tiny.directory)
    with pytest.raises(CanetError, match="'items' holds nulls"):
        load_dataset(tiny.directory)


def test_too_short_history_is_named(tiny: Dataset) -> None:
    path = tiny.directory / "sequences.parquet"
    rows = pl.read_parquet(path).with_columns(items=pl.Series([[1, 2, 1, 3, 3], [3, 2], [2, 1, 2, 2, 1]]))
    rows.write_parquet(path)
    resign(tiny.directory)
    with pytest.raises(CanetError, match="history 1 holds fewer than 3 items"):
        load_dataset(tiny.directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, ["schema_version is 2", "reads 1"]),
        ({"kind": "checkpoint"}, ["'checkpoint'", "expected 'dataset'"]),
        ({"format": "xls"}, ["$.format", "'xls'"]),
        ({"counts": {"histories": 3, "users": 3, "items": 2, "interactions": 12}}, ["3 items", "says 2"]),
        ({"counts": {"histories": 4, "users": 3, "items": 3, "interactions": 12}}, ["3 histories", "says 4"]),
        (
            {"counts": {"histories": 3, "users": 3, "items": 3, "interactions": 9}},
            ["12 interactions", "says 9"],
        ),
        ({"content_hash": "1" * 64}, ["content_hash"]),
    ],
)
def test_manifest_that_disagrees(tiny: Dataset, changes: dict, words: list[str]) -> None:
    resign(tiny.directory, **changes)
    with pytest.raises(CanetError) as caught:
        load_dataset(tiny.directory)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_manifest_cannot_point_elsewhere(tiny: Dataset) -> None:
    path = tiny.directory / "manifest.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"items.parquet"', '"../items.parquet"'), encoding="utf-8"
    )
    with pytest.raises(CanetError, match=r"\.\./items\.parquet"):
        load_dataset(tiny.directory)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text('{"schema_version": 1,', encoding="utf-8")
    for name, words in {
        "nothing": "no such dataset", "file": "is a file", "folder": "no manifest", "torn": "not valid JSON",
    }.items():  # fmt: skip
        with pytest.raises(CanetError, match=words):
            load_dataset(tmp_path / name)


def test_manifest_matches_its_schema(tiny: Dataset) -> None:
    validate(tiny.manifest, "dataset", where="manifest")


def test_head_counts_training_only(tmp_path: Path) -> None:
    # Item 5 is popular only where it is held out; 1 is the head of 5 items (20 %).
    dataset = make(tmp_path / "set", [[1, 1, 5, 5], [1, 2, 5, 5], [2, 3, 4, 5, 5], [2, 3, 1, 5, 5]], 5)
    assert training_counts(dataset).tolist() == [0, 4, 3, 2, 1, 0]
    assert head_items(dataset).tolist() == [False, True, False, False, False, False]
    assert head_users(dataset).tolist() == [True, True, False, False]


@pytest.mark.parametrize("num_items", [1, 4, 5, 6, 11])
def test_head_is_a_fifth_rounded_up_and_no_tail_item_beats_it(tmp_path: Path, num_items: int) -> None:
    generator = np.random.default_rng(num_items)
    histories = [generator.integers(1, num_items + 1, 8).tolist() for _ in range(9)]
    dataset = make(tmp_path / "set", histories, num_items)
    head, counts = head_items(dataset), training_counts(dataset)
    assert head.sum() == -(-num_items // 5) and not head[0]
    assert num_items == 1 or counts[head].min() >= counts[1:][~head[1:]].max()


def test_description_counts_by_hand(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [[1, 2, 1], [3, 3, 3, 2], [2, 1, 2, 2, 1]], 3)
    assert seen_before(dataset).astype(int).tolist() == [0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    found = describe(dataset, top=2)
    assert found["repeats"] == {"last_item": 2 / 3, "all_targets": 6 / 9}
    assert found["density"] == 12 / 9
    assert found["history_length"] == {
        "min": 3, "p5": 3, "p25": 3, "p50": 4, "p75": 4, "p95": 4, "max": 5, "mean": 4.0,
    }  # fmt: skip
    assert found["time"] == {
        "first": "1970-01-01T00:00:00+00:00", "last": "1970-01-12T00:00:00+00:00", "days": 11.0,
    }  # fmt: skip
    assert [(item["index"], item["count"]) for item in found["top_items"]] == [(2, 5), (1, 4)]
    assert json.loads(json.dumps(found)) == found


def test_description_without_times(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [[1, 2, 1], [2, 1, 2]], 2, times=False)
    assert describe(dataset)["time"] is None
