"""Every row of a log arrives in its right place, or the log is refused with its line."""

from __future__ import annotations

import csv
import io
import re
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_import import histories

from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError

Row = list[str]

OPTIONS = ImportOptions(min_item_count=1, min_history=3)
HEADER = ["user_id", "item_id", "timestamp", "title"]
# Two users who are always there, so that something is left whatever else is drawn.
GROUND = [[f"g{user}", f"i{item}", str(1_600_000_000 + item), "song"] for user in "ab" for item in range(4)]

odd = st.text(alphabet='ab",;|\t\n\r é日\u2028\xa0', max_size=6)
ids = st.one_of(
    st.sampled_from(["u1", "u2", 'q"', '"q"', "a,b", "é", " x "]), odd.filter(lambda text: bool(text.strip()))
)
stamps = st.integers(1_500_000_000, 1_700_000_000).map(str)
rows_of = st.lists(st.tuples(ids, ids, stamps, odd).map(list), min_size=1, max_size=25)


def expected(rows: list[Row], columns: list[str]) -> dict[str, list[str]]:
    """The histories of rows that a reader of ours never saw, by plain sorting."""
    user, item, time = (columns.index(name) for name in HEADER[:3])
    found = defaultdict(list)
    for row in rows:
        found[row[user].strip()].append((int(row[time].strip()), row[item].strip()))
    ordered = {
        owner: [thing for _, thing in sorted(mine, key=lambda event: event[0])]
        for owner, mine in found.items()
    }
    return {owner: mine for owner, mine in ordered.items() if len(mine) >= 3}


def outcome(content: bytes, name: str, options: ImportOptions = OPTIONS) -> dict[str, list[str]] | str:
    """The histories, or the words of the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return histories(import_log(path, Path(folder) / "out", options))
        except CanetError as error:
            return str(error)


@settings(max_examples=150, deadline=None)
@given(
    rows=rows_of,
    order=st.permutations(HEADER),
    separator=st.sampled_from(",;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_what_a_csv_writer_wrote_is_read_as_it_was(
    rows: list[Row], order: list[str], separator: str, quoting: int, end: str, bom: bool
) -> None:
    if (quoting, end) == (
        csv.QUOTE_MINIMAL,
        "\n",
    ):  # Python 3.11 writes a bare CR there, and reads it as a line end
        rows = [[field.replace("\r", "") for field in row] for row in rows]
        rows = [[row[0] or "u", row[1] or "i", *row[2:]] for row in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerow(order)
    places = [HEADER.index(name) for name in order]
    written = [[row[place] for place in places] for row in GROUND + rows]
    writer.writerows(written)
    found = outcome(("\ufeff" * bom + file.getvalue()).encode(), "log.csv")
    if isinstance(found, str):  # a reader may refuse, with a line and for a reason that is there
        assert re.search(r", line \d+: ", found), found
        blank = any(not row[n].strip() for row in rows for n in (0, 1))
        absent = any(row[n].strip() == "NA" for row in rows for n in (0, 1))
        spans = any(mark in "".join(row) for row in rows for mark in "\n\r")
        assert (
            ("is empty" in found and blank) or ("'NA'" in found and absent) or ("runs to" in found and spans)
        )
    else:
        assert found == expected(written, list(order))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["u1", "u2", 'u"3']),
            st.sampled_from(["i1", "i2", 'i"']),
            stamps,
            st.text(alphabet='ab" ,', max_size=5),
        ).map(list),
        min_size=1,
        max_size=25,
    ),
    order=st.permutations(HEADER),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_csv_written_by_hand_is_read_as_python_reads_it_or_refused(
    rows: list[Row], order: list[str], end: str
) -> None:
    places = [HEADER.index(name) for name in order]
    lines = [order, *([row[place] for place in places] for row in GROUND + rows)]
    text = "".join(",".join(line) + end for line in lines)
    found = outcome(text.encode(), "log.csv")
    if isinstance(found, str):
        assert re.search(r", line \d+: ", found), found
        assert '"' in text or any("," in row[3] for row in rows), "refused without a reason"
    else:
        read = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        assert found == expected(read[1:], list(order))


@settings(max_examples=100, deadline=None)
@given(rows=rows_of, order=st.permutations(HEADER), end=st.sampled_from(["\n", "\r\n"]))
def test_in_a_tsv_quotes_are_characters(rows: list[Row], order: list[str], end: str) -> None:
    places = [HEADER.index(name) for name in order]
    flat = [[re.sub(r"[\t\n\r]", "", field) for field in row] for row in rows]
    lines = [order, *([row[place] for place in places] for row in GROUND + flat)]
    found = outcome("".join("\t".join(line) + end for line in lines).encode(), "log.tsv")
    if isinstance(found, str):
        assert re.search(r", line \d+: ", found), found
        assert any(row[n].strip() in ("", "NA") for row in flat for n in (0, 1)), found
    else:
        assert found == expected(lines[1:], list(order))


@pytest.mark.parametrize("quoted", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_that_is_quoted_throughout_is_unquoted(quoted: int) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t", quoting=quoted, lineterminator="\n")  # type: ignore[arg-type]
    writer.writerow(HEADER)
    rows = [
        [f"u{user}", f"i\t{item}", 1_600_000_000 + item, 'a "b"'] for user in range(2) for item in range(4)
    ]
    writer.writerows(rows)
    found = outcome(file.getvalue().encode(), "log.tsv")
    assert found == {f"u{user}": [f"i\t{item}" for item in range(4)] for user in range(2)}


def table(rows: list[Row], header: str = "user_id,item_id,timestamp,title") -> bytes:
    return (header + "\n" + "".join(",".join(row) + "\n" for row in rows)).encode()


def test_a_mark_inside_a_field_takes_no_rows_with_it() -> None:
    rows = [[*row[:3], '12" mix' if number in (1, 6) else "song"] for number, row in enumerate(GROUND)]
    assert outcome(table(rows), "log.csv") == expected(rows, HEADER)


def test_a_lone_mark_that_swallowed_rows_is_refused_with_its_line() -> None:
    rows = [[*row[:3], {1: '"Heroes', 6: '12"'}.get(number, "song")] for number, row in enumerate(GROUND)]
    found = outcome(table(rows), "log.csv")
    assert isinstance(found, str) and "log.csv, line 3: " in found and "runs to line 8" in found


def test_a_field_of_several_lines_is_one_field() -> None:
    rows = [[*row[:3], '"first, line\nsecond, line"'] for row in GROUND]
    assert outcome(table(rows), "log.csv") == expected(GROUND, HEADER)


def test_a_row_of_separators_is_refused_not_skipped() -> None:
    found = outcome(table(GROUND) + b",,,\n", "log.csv")
    assert isinstance(found, str) and "line 10: column 'user_id' is empty" in found


def test_blank_lines_are_no_rows_and_count_in_line_numbers() -> None:
    content = b"\n \n" + table(GROUND) + b"\n\n"
    assert outcome(content, "log.csv") == expected(GROUND, HEADER)
    found = outcome(content + b",x,1600000000,t\n", "log.csv")
    assert isinstance(found, str) and "line 14: " in found


def test_a_reader_that_loses_a_row_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from canet_mobile.data import reading

    whole = reading.scan_table
    monkeypatch.setattr(reading, "scan_table", lambda source: whole(source).filter(pl.col("item_id") != "i3"))
    found = outcome(table(GROUND), "log.csv")
    assert isinstance(found, str) and "6 rows were read, but it holds 8" in found


@pytest.mark.parametrize(
    "name", ["log[1].csv", "log*.csv", "lo?.csv", "{a,b}.csv", "[x].parquet", "~log.csv"]
)
def test_a_path_is_a_name_and_never_a_pattern(tmp_path: Path, name: str) -> None:
    other = [["WRONG" + row[0], *row[1:]] for row in GROUND]
    for decoy in ("log1.csv", "loga.csv", "log.csv", "a.csv", "x.parquet"):
        (tmp_path / decoy).write_bytes(table(other))
    if name.endswith(".csv"):
        (tmp_path / name).write_bytes(table(GROUND))
    else:
        columns = zip(HEADER[:3], zip(*GROUND, strict=True), strict=False)
        with (tmp_path / name).open("wb") as file:
            pl.DataFrame({column: list(values) for column, values in columns}).write_parquet(file)
    found = import_log(tmp_path / name, tmp_path / "shop [v2]", OPTIONS)
    assert histories(found) == expected(GROUND, HEADER)


def test_titles_of_many_kinds_arrive(tmp_path: Path) -> None:
    titles = ['12" mix', 'A "b", c', "two\nlines, both", "plain"]
    (tmp_path / "log.csv").write_bytes(table(GROUND))
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["item_id", "title"], *([f"i{n}", title] for n, title in enumerate(titles))])
    text = file.getvalue().replace('"12"" mix"', '12" mix')  # as an export without a csv writer has it
    (tmp_path / "items.csv").write_text(text, encoding="utf-8", newline="")
    options = ImportOptions(min_item_count=1, min_history=3, items_file=tmp_path / "items.csv")
    dataset = import_log(tmp_path / "log.csv", tmp_path / "out", options)
    assert dataset.item_table()["title"].to_list() == titles


def test_titles_that_match_few_items_are_counted(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(table(GROUND))
    (tmp_path / "items.csv").write_text("item_id,title\ni2,A\ni2,B\ni9,C\n", encoding="utf-8")
    options = ImportOptions(min_item_count=1, min_history=3, items_file=tmp_path / "items.csv")
    notes: list[str] = []
    import_log(tmp_path / "log.csv", tmp_path / "out", options, progress=notes.append)
    said = "\n".join(notes)
    assert (
        "has titles for 1 of 4 items" in said and "'i0'" in said and "more than one title for 1 item" in said
    )


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 999),
    size=st.integers(20, 60),
    unit=st.sampled_from(["s", "ms", "us", "ns", "ISO", "YYYYMMDDHHMMSS"]),
    form=st.sampled_from(["csv", "tsv", "parquet", "recbole", "blank"]),
)
def test_rows_in_any_unit_and_format_give_the_same_histories(
    seed: int, size: int, unit: str, form: str
) -> None:
    random = np.random.default_rng(seed)
    times = random.permutation(size) * 3600 + 1_600_000_000
    rows = [[f"u{random.integers(3)}", f"i{random.integers(5)}", str(time), "t"] for time in times]
    written = [[user, item, in_unit(int(time), unit)] for user, item, time, _ in rows]
    if form == "parquet":
        file = io.BytesIO()
        pl.DataFrame(written, schema=HEADER[:3], orient="row").write_parquet(file)
        found = outcome(file.getvalue(), "log.parquet")
    else:
        mark = {"csv": ",", "tsv": "\t", "recbole": "\t", "blank": " "}[form]
        header = [f"{name}:token" for name in HEADER[:3]] if form == "recbole" else HEADER[:3]
        text = "".join(mark.join(line) + "\n" for line in [header, *written])
        found = outcome(text.encode(), {"recbole": "log.inter", "blank": "log.txt"}.get(form, f"log.{form}"))
    assert found == expected(rows, HEADER)


def in_unit(seconds: int, unit: str) -> str:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    if unit in factor:
        return str(seconds * factor[unit])
    iso = str(np.datetime64(seconds, "s"))
    return iso if unit == "ISO" else re.sub("[^0-9]", "", iso)


def test_what_to_type_next_can_be_typed(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(table(GROUND))
    arguments = [
        "data",
        "import",
        "log.csv",
        "--out",
        "shop [v2]",
        "--min-item-count",
        "1",
        "--min-history",
        "3",
    ]
    command = [sys.executable, "-m", "canet_mobile", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    said = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
    assert shlex.split(said)[-1] == "shop [v2]"
