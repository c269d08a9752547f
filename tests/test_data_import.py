"""What an import must compute, whatever the log is written in."""

from __future__ import annotations

import gzip
import tempfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.filters import cut_sessions, iterative_filter
from canet_mobile.data.importer import ImportOptions, import_log

Row = tuple[str, str, int]

rows_strategy = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("pqrstuvwxyz"), st.integers(0, 6)),
    min_size=30,
    max_size=120,
)


def reference_filter(rows: list[Row], min_users: int, min_history: int) -> list[Row]:
    """The filter in its plainest words."""
    while True:
        holders = defaultdict(set)
        for user, item, _ in rows:
            holders[item].add(user)
        kept = [row for row in rows if len(holders[row[1]]) >= min_users]
        lengths = Counter(user for user, _, _ in kept)
        kept = [row for row in kept if lengths[row[0]] >= min_history]
        if kept == rows:
            return rows
        rows = kept


def histories(dataset: Dataset) -> dict[str, list[str]]:
    """user -> original item ids, oldest first."""
    names = dataset.item_table()["item_id"].to_list()
    return {
        user: [names[item - 1] for item in dataset.items[begin:end]]
        for user, begin, end in zip(
            dataset.user_ids(), dataset.offsets[:-1], dataset.offsets[1:], strict=True
        )
    }


def write_csv(path: Path, rows: list[Row]) -> Path:
    path.write_text(
        "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows), encoding="utf-8"
    )
    return path


def log(seed: int = 0, size: int = 400) -> list[Row]:
    """Rows with unique times, in no order."""
    generator = np.random.default_rng(seed)
    times = generator.permutation(size) + 1_600_000_000
    return [
        (f"u{generator.integers(8)}", f"i{int(15 * generator.random() ** 2)}", int(time)) for time in times
    ]


@settings(max_examples=40, deadline=None)
@given(rows=rows_strategy, min_users=st.integers(1, 3), min_history=st.integers(3, 6))
def test_import_equals_the_plain_reference(rows: list[Row], min_users: int, min_history: int) -> None:
    kept = reference_filter(rows, min_users, min_history)
    expected: dict[str, list[str]] = {}
    for user in dict.fromkeys(user for user, _, _ in rows):
        mine = sorted((row for row in kept if row[0] == user), key=lambda row: row[2])  # stable
        if mine:
            expected[user] = [item for _, item, _ in mine]
    if len(expected) < 2:
        return
    with tempfile.TemporaryDirectory() as name:
        source = write_csv(Path(name) / "log.csv", rows)
        options = ImportOptions(min_item_count=min_users, min_history=min_history)
        dataset = import_log(source, Path(name) / "out", options)
        assert histories(dataset) == expected
        assert list(histories(dataset)) == list(expected)  # users in order of first appearance
        flat = [item for history in expected.values() for item in history]
        table = dataset.item_table()
        assert table["item_id"].to_list() == list(dict.fromkeys(flat))  # items too
        assert table["count"].to_list() == [flat.count(item) for item in dict.fromkeys(flat)]
        stages = dataset.manifest["stages"]
        dropped = stages["dropped_rare_items"] + stages["dropped_short_histories"]
        assert stages["read"] - dropped == stages["kept"] == len(kept) == len(dataset.items)


@settings(max_examples=60, deadline=None)
@given(rows=rows_strategy, min_users=st.integers(1, 4), min_history=st.integers(1, 6))
def test_filter_leaves_nothing_rare_and_takes_no_more_than_it_must(
    rows: list[Row], min_users: int, min_history: int
) -> None:
    users = np.array([ord(user) - ord("a") for user, _, _ in rows], np.int32)
    items = np.array([ord(item) - ord("a") for _, item, _ in rows], np.int32)
    keep, dropped = iterative_filter(users, items, min_users, min_history)
    assert [row for row, stays in zip(rows, keep, strict=True) if stays] == reference_filter(
        rows, min_users, min_history
    )
    assert dropped.rare_items + dropped.short_histories == (~keep).sum()
    again, nothing = iterative_filter(users[keep], items[keep], min_users, min_history)
    assert again.all() and nothing.rare_items == nothing.short_histories == 0


def as_sources(folder: Path, rows: list[Row]) -> dict[str, Path]:
    """One log in every format that has columns."""
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    folder.mkdir(exist_ok=True)
    table.write_csv(folder / "log.csv")
    table.write_csv(folder / "log.tsv", separator="\t")
    (folder / "log.csv.gz").write_bytes(gzip.compress((folder / "log.csv").read_bytes()))
    text = (folder / "log.tsv").read_text(encoding="utf-8").partition("\n")[2]
    (folder / "log.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + text, encoding="utf-8"
    )
    table.write_parquet(folder / "log.parquet")
    parts = folder / "spark"
    for number in range(3):
        part = parts / f"month={number}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        chunk = len(rows) // 3
        table[number * chunk : (number + 1) * chunk if number < 2 else len(rows)].write_parquet(part)
    (parts / "_SUCCESS").touch()
    (parts / "_temporary").mkdir()
    (parts / "_temporary" / "half.parquet").write_bytes(b"PAR1")
    names = ("log.csv", "log.tsv", "log.csv.gz", "log.inter", "log.parquet", "spark")
    return {name: folder / name for name in names}


def test_every_format_gives_the_same_dataset(tmp_path: Path) -> None:
    rows = [(user, item, time // 50 * 50) for user, item, time in log()]  # many ties: file order decides
    hashes, formats = {}, {}
    for name, source in as_sources(tmp_path / "in", rows).items():
        dataset = import_log(source, tmp_path / name.replace(".", "-"))
        hashes[name], formats[name] = dataset.content_hash, dataset.manifest["format"]
        assert dataset.times() is not None
    assert len(set(hashes.values())) == 1, hashes
    assert list(formats.values()) == ["csv", "tsv", "csv", "recbole", "parquet", "parquet"]


@pytest.mark.parametrize("packed", [False, True])
def test_sequence_file_keeps_the_order_of_its_lines(tmp_path: Path, packed: bool) -> None:
    text = "7 c a b a\n9  b c\ta b \n8 a b c c\n"
    source = tmp_path / ("log.txt.gz" if packed else "log.txt")
    source.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset = import_log(source, tmp_path / "out", ImportOptions(min_item_count=1, min_history=3))
    assert histories(dataset) == {"7": list("caba"), "9": list("bcab"), "8": list("abcc")}
    assert dataset.items.tolist() == [1, 2, 3, 2, 3, 1, 2, 3, 2, 3, 1, 1]
    assert dataset.times() is None and dataset.manifest["time_unit"] is None


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_rows_in_another_order_give_the_same_histories(seed: int) -> None:
    rows = log()
    shuffled = [rows[n] for n in np.random.default_rng(seed).permutation(len(rows))]
    with tempfile.TemporaryDirectory() as name:
        first, second = (
            import_log(write_csv(Path(name) / f"{n}.csv", some), Path(name) / f"{n}")
            for n, some in enumerate((rows, shuffled))
        )
        assert histories(first) == histories(second)


@pytest.mark.parametrize(
    ("unit", "write"),
    [
        ("s", str),
        ("s", lambda s: f"{s}.25"),
        ("ms", lambda s: str(s * 1000)),
        ("us", lambda s: str(s * 10**6)),
        ("ns", lambda s: str(s * 10**9)),
        ("datetime", lambda s: str(np.datetime64(s, "s"))),
        ("datetime", lambda s: str(np.datetime64(s, "s")) + "Z"),
        ("datetime", lambda s: str(np.datetime64(s + 7200, "s")) + "+02:00"),
        ("datetime", lambda s: str(np.datetime64(s, "s")).replace("T", " ")),
        ("datetime", lambda s: str(np.datetime64(s, "s")).replace("T", " ") + " UTC"),
    ],
)
def test_times_become_microseconds_whatever_they_were(tmp_path: Path, unit: str, write) -> None:
    rows = log()
    text = "".join(f"{user},{item},{write(time)}\n" for user, item, time in rows)
    (tmp_path / "log.csv").write_text("user,item,ts\n" + text, encoding="utf-8")
    dataset = import_log(tmp_path / "log.csv", tmp_path / "out")
    plain = import_log(write_csv(tmp_path / "plain.csv", rows), tmp_path / "plain")
    assert dataset.manifest["time_unit"] == unit
    assert dataset.content_hash == plain.content_hash
    extra = 250_000 if ".25" in write(0) else 0
    np.testing.assert_array_equal(dataset.times(), plain.times() + extra)


def test_parquet_datetimes_and_integer_ids(tmp_path: Path) -> None:
    rows = log()
    table = pl.DataFrame(
        {
            "visitor_id": [int(user[1:]) for user, _, _ in rows],
            "SKU": [item for _, item, _ in rows],
            "event_time": pl.Series([time for _, _, time in rows]) * 1000,
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("ms")))
    table.write_parquet(tmp_path / "log.parquet")
    dataset = import_log(tmp_path / "log.parquet", tmp_path / "out")
    plain = import_log(write_csv(tmp_path / "plain.csv", rows), tmp_path / "plain")
    assert dataset.content_hash == plain.content_hash
    assert set(dataset.user_ids()) == {user[1:] for user in plain.user_ids()}
    np.testing.assert_array_equal(dataset.times(), plain.times())


def test_ids_stay_text_and_quotes_hold_separators(tmp_path: Path) -> None:
    lines = ['"a, b",007', '"a, b",7', '"a, b",007', "é,007", "é,7", "é,07"]
    (tmp_path / "log.csv").write_text("user,item\n" + "\n".join(lines) + "\n\n", encoding="utf-8")
    dataset = import_log(
        tmp_path / "log.csv", tmp_path / "out", ImportOptions(min_item_count=1, min_history=3)
    )
    assert histories(dataset) == {"a, b": ["007", "7", "007"], "é": ["007", "7", "07"]}


def test_no_header_names_columns_by_number(tmp_path: Path) -> None:
    rows = log()
    (tmp_path / "u.data").write_text(
        "".join(f"{user}\t{item}\t{time}\n" for user, item, time in rows), encoding="utf-8"
    )
    options = ImportOptions(header=False, user="column_1", item="column_2", time="column_3")
    dataset = import_log(tmp_path / "u.data", tmp_path / "out", options)
    plain = import_log(write_csv(tmp_path / "plain.csv", rows), tmp_path / "plain")
    assert dataset.content_hash == plain.content_hash


def test_time_none_means_file_order(tmp_path: Path) -> None:
    rows = log()
    dataset = import_log(write_csv(tmp_path / "log.csv", rows), tmp_path / "out", ImportOptions(time="none"))
    kept = reference_filter(rows, 5, 5)
    for user, history in histories(dataset).items():
        assert history == [item for owner, item, _ in kept if owner == user]


def test_titles_join_on_the_item_id(tmp_path: Path) -> None:
    items = 'item_id:token\tmovie_title:token_seq\ni0\tStar "Wars"\ni1\t\ni0\tsecond\n'
    (tmp_path / "log.item").write_text(items, encoding="utf-8")
    options = ImportOptions(items_file=tmp_path / "log.item")
    dataset = import_log(write_csv(tmp_path / "log.csv", log()), tmp_path / "out", options)
    titles = dict(dataset.item_table().select("item_id", "title").iter_rows())
    assert titles.pop("i0") == 'Star "Wars"'
    assert set(titles.values()) == {None}
    assert [entry["name"] for entry in dataset.manifest["sources"]] == ["log.csv", "log.item"]
    assert dataset.manifest["columns"]["title"] == "movie_title"


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    length=st.integers(3, 5),
    gap=st.one_of(st.none(), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_sessions_are_whole_consecutive_and_close(
    lengths: list[int], length: int, gap: int | None, seed: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = np.cumsum(np.random.default_rng(seed).integers(0, 30, offsets[-1])).astype(np.int64)
    owner, starts = cut_sessions(offsets, times, length, gap)
    expected = [
        (user, start)
        for user, (begin, end) in enumerate(pairwise(offsets.tolist()))
        for start in range(begin, end - length + 1, length)
        if gap is None or times[start + length - 1] - times[start + length - 2] <= gap
    ]
    assert list(zip(owner.tolist(), starts.tolist(), strict=True)) == expected


def test_import_with_sessions(tmp_path: Path) -> None:
    rows = sorted(log(), key=lambda row: row[2])
    options = ImportOptions(session_length=6, session_gap_s=10)
    dataset = import_log(write_csv(tmp_path / "log.csv", rows), tmp_path / "out", options)
    assert set(np.diff(dataset.offsets)) == {6}
    times = dataset.times().reshape(-1, 6)
    assert ((times[:, -1] - times[:, -2]) <= 10_000_000).all()
    counts, stages = dataset.manifest["counts"], dataset.manifest["stages"]
    assert counts["users"] < counts["histories"] == len(times)
    assert stages["dropped_sessions"] > 0
    assert all("#" in user for user in dataset.user_ids())


def test_import_is_deterministic_to_the_byte(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "log.csv", log())
    first, second = (import_log(source, tmp_path / n, ImportOptions(name="x")) for n in ("a", "b"))
    assert first.manifest == second.manifest
