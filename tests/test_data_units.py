"""One unit for a column of times, which every row is held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.data.units import WrongTime, to_microseconds
from canet_mobile.errors import CanetError

FACTOR = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
START = 1_600_000_000


def import_times(folder: Path, times: list[object], **options: object) -> dict:
    """The manifest of a log with these times, five users in turn."""
    rows = "".join(f"u{n % 5},i{n % 7},{time}\n" for n, time in enumerate(times))
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + rows, encoding="utf-8")
    chosen = ImportOptions(min_item_count=1, min_history=3, **options)  # type: ignore[arg-type]
    return import_log(folder / "log.csv", folder / "out", chosen).manifest


@settings(max_examples=100, deadline=None)
@given(
    unit=st.sampled_from(list(FACTOR)),
    other=st.sampled_from(list(FACTOR)),
    row=st.integers(0, 1999),
    kind=st.sampled_from([np.int64, np.float64]),
)
def test_a_row_in_another_unit_is_found_wherever_it_stands(
    unit: str, other: str, row: int, kind: type
) -> None:
    values = (START + np.arange(2000, dtype=np.int64)) * FACTOR[unit]
    values[row] = (START + row) * FACTOR[other]
    if unit == other:
        stamps, found = to_microseconds(values.astype(kind), numbers=True)
        assert found == unit and np.abs(stamps - (START + np.arange(2000)) * 10**6).max() <= 1
        return
    with pytest.raises(WrongTime) as caught:
        to_microseconds(values.astype(kind), numbers=True)
    assert caught.value.row == row


@pytest.mark.parametrize("first", ["s", "ms"])
def test_a_change_of_unit_far_down_is_refused_with_its_line(tmp_path: Path, first: str) -> None:
    second = "ms" if first == "s" else "s"
    times = [(START + n) * FACTOR[first if n < 1100 else second] for n in range(1200)]
    with pytest.raises(CanetError, match=r"log\.csv, line 1102: .*others are times of 2020"):
        import_times(tmp_path, times)


@pytest.mark.parametrize("absent", [0, -1, -2147483648, 253402300799])
def test_a_stand_in_for_no_time_is_refused(tmp_path: Path, absent: int) -> None:
    with pytest.raises(CanetError, match=rf"line 32: .*holds {absent} \(a stand-in for no time\?\)"):
        import_times(tmp_path, [START + n for n in range(30)] + [absent] + [START])


@pytest.mark.parametrize("absent", ["1970-01-01 00:00:00", "9999-12-31 00:00:00", "0001-01-01 00:00:00"])
def test_a_stand_in_for_no_date_is_refused(tmp_path: Path, absent: str) -> None:
    dates = [f"2020-01-01 00:00:{n:02}" for n in range(30)]
    with pytest.raises(CanetError, match=rf"line 32: .*{absent}"):
        import_times(tmp_path, [*dates, absent])


def test_a_number_that_would_wrap_round_into_our_days_is_found() -> None:
    wraps = (2**64 + START * 10**6) // 10**6 + 1  # times 10^6 this is a time of 2020, modulo 2^64
    values = np.array([START, START + 1, wraps], np.int64)
    with pytest.raises(WrongTime) as caught:
        to_microseconds(values, numbers=True)
    assert caught.value.row == 2


def test_decades_that_no_log_spans_are_refused() -> None:
    times = np.array([START, START + 1, 473_385_600, START + 2, 4_000_000_000], np.int64)
    with pytest.raises(WrongTime, match="years"):
        to_microseconds(times, numbers=True)


@pytest.mark.parametrize(
    ("form", "unit"),
    [("%Y%m%d", "YYYYMMDD"), ("%Y%m%d%H%M", "YYYYMMDDHHMM"), ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS")],
)
@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_dates_written_in_digits_are_dates(tmp_path: Path, form: str, unit: str, kind: str) -> None:
    days = pl.datetime_range(
        pl.datetime(2021, 12, 1, 10, 30), pl.datetime(2022, 2, 1, 10, 30), "1d", eager=True
    )
    written = days.dt.to_string(form)
    table = pl.DataFrame(
        {
            "user_id": [f"u{n % 5}" for n in range(len(days))],
            "item_id": [f"i{n % 7}" for n in range(len(days))],
            "timestamp": written if kind == "text" else written.cast(pl.Int64),
        }
    )
    table.write_parquet(tmp_path / "log.parquet")
    options = ImportOptions(min_item_count=1, min_history=3)
    dataset = import_log(tmp_path / "log.parquet", tmp_path / "out", options)
    exact = days if form != "%Y%m%d" else days.dt.truncate("1d")
    assert dataset.manifest["time_unit"] == unit
    assert sorted(dataset.times().tolist()) == exact.dt.epoch("us").to_list()


def test_sessions_of_digits_and_of_iso_dates_are_alike(tmp_path: Path) -> None:
    days = [f"202201{day:02}" for day in range(1, 31)]
    for name, times in (("digits", days), ("iso", [f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days])):
        for folder in (tmp_path / name, tmp_path / f"{name}2"):
            folder.mkdir()
        manifest = import_times(tmp_path / name, times, session_length=3, session_gap_s=6 * 86_400.0)
        assert manifest["counts"]["histories"] == 10
        with pytest.raises(CanetError, match="0 sessions"):
            import_times(tmp_path / f"{name}2", times, session_length=3, session_gap_s=86_400.0)


@pytest.mark.parametrize(
    ("odd", "word"), [("20220231", "no date"), ("1650000000", "YYYYMMDD"), ("20221301", "20221301")]
)
def test_an_impossible_date_is_refused_with_its_line(tmp_path: Path, odd: str, word: str) -> None:
    with pytest.raises(CanetError, match=rf"line 32: .*{word}"):
        import_times(tmp_path, [f"202201{n:02}" for n in range(1, 31)] + [odd])


def test_counts_keep_their_order_and_know_no_negative(tmp_path: Path) -> None:
    assert import_times(tmp_path, list(range(40)))["time_unit"] == "s"
    (tmp_path / "again").mkdir()
    with pytest.raises(CanetError, match=r"line 42: .*holds -1, which is before the count began"):
        import_times(tmp_path / "again", [*range(40), -1])


def test_a_cut_off_last_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CanetError, match=r"line 32: .*holds 16000 "):
        import_times(tmp_path, [START + n for n in range(30)] + [16000])
