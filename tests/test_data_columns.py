"""Which column is what: look-alikes of public data sets are read; the rest is refused with what to type."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_data_import import histories

from canet_mobile.cli.data import parse_size
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError, UsageError

USERS, LENGTH = 4, 5


def lines(write: Callable[[int, str, int], str]) -> str:
    """One line for every interaction: user n has items n, n + 1 ..., newest first in the file."""
    return "".join(
        write(user, f"{(user + step) % LENGTH}", step) + "\n"
        for user in range(USERS)
        for step in reversed(range(LENGTH))
    )


def read(
    folder: Path, name: str, content: str | bytes, **options: object
) -> tuple[dict[str, list[str]], dict, list[str]]:
    """Histories, columns and notes of an import."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes: list[str] = []
    chosen = ImportOptions(min_item_count=1, min_history=3, **options)  # type: ignore[arg-type]
    dataset = import_log(path, folder / "out", chosen, progress=notes.append)
    return (
        histories(dataset),
        dataset.manifest["columns"],
        [note for note in notes if note.startswith("note: ")],
    )


LOOK_ALIKES = {
    "KuaiRand": (
        "log_standard.csv",
        "user_id,video_id,date,hourmin,time_ms,is_click\n"
        + lines(lambda u, i, t: f"{u},{i},20220421,{900 + t},{1_650_000_010_000 + t},1"),
        ("user_id", "video_id", "time_ms"),
        ["passed over: date, hourmin"],
    ),
    "KuaiRec": (
        "big_matrix.csv",
        "user_id,video_id,play_duration,time,date,timestamp,watch_ratio\n"
        + lines(lambda u, i, t: f"{u},{i},9,2020-07-05 00:08:0{t}.438,20200705,159387890{t}.438,1.2"),
        ("user_id", "video_id", "timestamp"),
        ["passed over: time, date"],
    ),
    "Diginetica": (
        "train-item-views.csv",
        "sessionId;userId;itemId;timeframe;eventdate\n"
        + lines(lambda u, i, t: f"{u};NA;{i};{t * 50_000};2016-05-0{u + 1}"),
        ("sessionId", "itemId", "eventdate+timeframe"),
        ["user = sessionId; passed over: userId"],
    ),
    "H&M": (
        "transactions_train.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id\n"
        + lines(lambda u, i, t: f"2018-09-2{t},{u},{i},0.05,2"),
        ("customer_id", "article_id", "t_dat"),
        [],
    ),
    "Yoochoose": (
        "yoochoose-clicks.dat",
        lines(lambda u, i, t: f"{u},2014-04-07T10:5{t}:09.277Z,{i},0"),
        ("column_1", "column_3", "column_2"),
        ["the first line is a row"],
    ),
    "MovieLens 1M": (
        "ratings.dat",
        lines(lambda u, i, t: f"{u}::{i}::5::{978_300_760 + t}"),
        ("column_1", "column_2", "column_4"),
        ["the first line is a row"],
    ),
    "MovieLens 100k": (
        "u.data",
        lines(lambda u, i, t: f"{u}\t{i}\t5\t{978_300_760 + t}"),
        ("column_1", "column_2", "column_4"),
        ["the first line is a row"],
    ),
    "MovieLens 20M": (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n" + lines(lambda u, i, t: f"{u},{i},3.5,{1_112_486_027 + t}"),
        ("userId", "movieId", "timestamp"),
        [],
    ),
    "Last.fm (LFM-2b)": (
        "listening_events.tsv",
        "user_id\ttrack_id\talbum_id\ttimestamp\n"
        + lines(lambda u, i, t: f"{u}\t{i}\t7\t2019-06-21 15:03:0{t}"),
        ("user_id", "track_id", "timestamp"),
        [],
    ),
    "RetailRocket": (
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n"
        + lines(lambda u, i, t: f"143322173211{t},{u},view,{i},"),
        ("visitorid", "itemid", "timestamp"),
        [],
    ),
    "Amazon reviews": (
        "ratings.csv",
        "reviewerID,asin,overall,unixReviewTime,reviewTime\n"
        + lines(lambda u, i, t: f'{u},{i},5,160000000{t},"09 1{t}, 2009"'),
        ("reviewerID", "asin", "unixReviewTime"),
        [],
    ),
    "blanks after commas": (
        "log.csv",
        "User ID, Item ID , Timestamp\n" + lines(lambda u, i, t: f"{u}, {i}, {1_600_000_000 + t}"),
        ("User ID", "Item ID", "Timestamp"),
        [],
    ),
    "date and HHMM": (
        "log.csv",
        "user_id,item_id,date,time\n" + lines(lambda u, i, t: f"{u},{i},2022-04-05,{958 + 42 * (t > 1) + t}"),
        ("user_id", "item_id", "date+time"),
        ["date+time, a date and a time of the day"],
    ),
    "dates in digits and a clock": (
        "log.csv",
        "user_id,item_id,date,hourmin\n" + lines(lambda u, i, t: f"{u},{i},20220405,{t}:30"),
        ("user_id", "item_id", "date+hourmin"),
        [],
    ),
    "RecBole with commas": (
        "log.inter",
        "user_id:token,item_id:token,timestamp:float\n"
        + lines(lambda u, i, t: f"{u},{i},{1_600_000_000 + t}"),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "RecBole with blanks": (
        "log.inter",
        "user_id:token item_id:token timestamp:float\n"
        + lines(lambda u, i, t: f"{u} {i} {1_600_000_000 + t}"),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "blanks": (
        "log.txt",
        lines(lambda u, i, t: f"{u} {i} 3 {88_125_094 + t}"),
        ("column_1", "column_2", "column_4"),
        [],
    ),
    "blanks and a header": (
        "log.txt",
        "user_id item_id timestamp\n" + lines(lambda u, i, t: f"{u}  {i} {1_600_000_000 + t}"),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "sep=;": (
        "log.csv",
        "sep=;\nuser_id;item_id;timestamp\n" + lines(lambda u, i, t: f"{u};{i};{1_600_000_000 + t}"),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "tabs, the header alone in quotes": (
        "log.tsv",
        '"user_id"\t"item_id"\t"timestamp"\n'
        + lines(lambda u, i, t: f"{u}\t{i}\t{1_600_000_000 + t}\t".rstrip()),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "pipes": (
        "log.txt",
        "user_id|item_id|timestamp\n" + lines(lambda u, i, t: f"{u}|{i}|{1_600_000_000 + t}"),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
    "CR alone": (
        "log.csv",
        ("user_id,item_id,timestamp\n" + lines(lambda u, i, t: f"{u},{i},{1_600_000_000 + t}")).replace(
            "\n", "\r"
        ),
        ("user_id", "item_id", "timestamp"),
        [],
    ),
}


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_look_alikes_of_public_logs_are_read(tmp_path: Path, case: str) -> None:
    name, content, columns, said = LOOK_ALIKES[case]
    found, chosen, notes = read(tmp_path, name, content)
    assert found == {str(u): [f"{(u + t) % LENGTH}" for t in range(LENGTH)] for u in range(USERS)}
    assert (chosen["user"], chosen["item"], chosen["time"]) == columns
    assert all(word in "\n".join(notes) for word in said), notes


@pytest.mark.parametrize(("three", "two"), [("", "column_1"), ("4", "column_1")])
def test_a_table_without_times_keeps_the_order_of_the_file(tmp_path: Path, three: str, two: str) -> None:
    found, chosen, notes = read(tmp_path, "log.txt", lines(lambda u, i, t: f"{u} {i} {three}".strip()))
    assert found["0"] == ["4", "3", "2", "1", "0"] and chosen["user"] == two
    assert any("the order of the file" in note for note in notes)


def test_lines_of_one_length_are_histories_where_no_user_comes_twice(tmp_path: Path) -> None:
    text = "".join(f"{user} {user + 1} {user + 2} {user + 3} {user + 1}\n" for user in range(5))
    found, chosen, notes = read(tmp_path, "log.txt", text)
    assert found["0"] == ["1", "2", "3", "1"] and chosen["user"] is None
    assert any("4.0 items a line" in note and "'0'" in note for note in notes)


def test_a_user_on_two_lines_of_histories_is_joined_and_said(tmp_path: Path) -> None:
    found, _, notes = read(tmp_path, "log.txt", "a 1 2 3\nb 1 2 3 4 5\na 4\nc\n")
    assert found == {"a": ["1", "2", "3", "4"], "b": ["1", "2", "3", "4", "5"]}
    assert any("1 line of a user who has one above" in note for note in notes)
    assert any("1 line of a user and no item" in note for note in notes)


def test_a_table_is_told_by_the_whole_file_where_its_head_names_every_user_once(tmp_path: Path) -> None:
    text = "".join(f"u{(n * 7) % 300} {n % 11} 3\n" for n in range(1200))
    found, chosen, _ = read(tmp_path, "ratings.txt", text)
    assert (
        chosen["user"] == "column_1" and len(found) == 300 and all(len(mine) == 4 for mine in found.values())
    )


REFUSED = {
    "a table with a short line": (
        "log.txt",
        lines(lambda u, i, t: f"{u} {i} 3 {1_600_000_000 + t}") + f"1 2 {1_600_000_000}\n",
        {},
        ["20 of 21 lines hold 4 words", "--separator blank"],
    ),
    "table or histories": (
        "log.txt",
        lines(lambda u, i, t: f"{u} {i} 1 2 {1_600_000_000 + t}"),
        {},
        ["5 words", "looks like a time", "--separator blank", "--format sequences"],
    ),
    "Last.fm 1K": (
        "plays.tsv",
        lines(lambda u, i, t: f"user_00000{u}\t2009-05-04T23:0{t}:57Z\tid{i}\tArtist\t\tSong"),
        {},
        ["Last.fm", "--no-header --user column_1 --time column_2 --item column_4"],
    ),
    "MIND": (
        "behaviors.tsv",
        lines(lambda u, i, t: f"{t}\tU{u}\t11/1{t}/2019 9:05:12 AM\tN1 N2\tN3-0 N4-1"),
        {},
        ["MIND", "column_4", "awk"],
    ),
    "first line is a row": (
        "log.csv",
        lines(lambda u, i, t: f"u{u},x{i},click,7,8,{1_600_000_000 + t}"),
        {},
        ["like a user", "first line a row", "--no-header"],
    ),
    "JSON lines": ("log.jsonl", '{"user_id": 1, "item_id": 2}\n', {}, ["JSON lines", "read_ndjson"]),
    "JSON": ("log.json", '[{"user_id": 1, "item_id": 2}]\n', {}, ["is JSON", "read_json"]),
    "UTF-16": ("log.csv", "user_id,item_id\na,b\n".encode("utf-16"), {}, ["UTF-16", "iconv"]),
    "NA for a user": (
        "log.csv",
        "user_id,item_id\n" + lines(lambda u, i, t: f"{u},{i}") + "NA,1\nNA,2\n",
        {},
        ["line 22", "'user_id'", "'NA' in 2 rows", "--keep 'NA'"],
    ),
    r"\N for an item": (
        "log.csv",
        "user_id,item_id\n" + lines(lambda u, i, t: f"{u},{i}") + "1,\\N\n",
        {},
        ["line 22", "'item_id'", r"\\N", "no item"],
    ),
    "null in a history": ("log.txt", "a 1 2 3\nb 1 2\nc 1 null 2 3\n", {}, ["line 3", "'null'"]),
    "rows of another width": (
        "ratings.dat",
        lines(lambda u, i, t: f"{u}::{i}::5::{978_300_760 + t}") + "1::2::5\n",
        {},
        ["line 21", "has 3 fields", "have 4"],
    ),
    "a separator of two": ("log.csv", "user_id,item_id\na,b\n", {"separator": "ab"}, ["'ab'", "pass one"]),
    "a NUL": (
        "log.csv",
        "user_id,item_id\n" + lines(lambda u, i, t: f"{u},{i}") * 2000 + "1,\0\n",
        {},
        ["line 40002", "NUL"],
    ),
    "gzip without end": (
        "log.csv.gz",
        gzip.compress(b"user_id,item_id\n" + b"a,b\n" * 10_000),
        {"max_bytes": 1000},
        ["more than 1,000 bytes", "--max-bytes"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named_with_what_to_type(tmp_path: Path, case: str) -> None:
    name, content, options, words = REFUSED[case]
    with pytest.raises(CanetError) as caught:
        read(tmp_path, name, content, **options)
    message = str(caught.value)
    assert all(word in message for word in [*words, name.replace("log.csv", "")]), message
    assert "\n  fix: " in message


def test_a_kept_id_is_an_id(tmp_path: Path) -> None:
    content = "user_id,item_id\n" + lines(lambda u, i, t: f"{'NA' if u == 1 else u},{i}")
    found, _, _ = read(tmp_path, "log.csv", content, keep=("NA",))
    assert len(found["NA"]) == LENGTH


def test_a_pipe_is_said_to_be_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(CanetError, match="is a pipe"):
        import_log(tmp_path / "log.csv", tmp_path / "out")


def test_a_column_of_dates_that_is_asked_for_is_taken_alone(tmp_path: Path) -> None:
    content = "user_id,item_id,date,time\n" + lines(lambda u, i, t: f"{u},{i},2022-04-05,{1000 + t}")
    assert read(tmp_path, "log.csv", content, time="date")[0]["0"] == ["4", "3", "2", "1", "0"]


def test_two_columns_of_time_can_be_asked_for(tmp_path: Path) -> None:
    content = "user_id,item_id,day,clock\n" + lines(lambda u, i, t: f"{u},{i},2022-04-05,10:0{t}")
    assert read(tmp_path, "log.csv", content, time="day+clock")[0]["0"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("text", "size"), [("500", 500), ("2K", 2048), ("64G", 64 << 30), ("1gib", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "much", "1X"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-bytes"):
        parse_size(text)
