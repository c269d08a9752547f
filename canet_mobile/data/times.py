"""How a log's times are read: as numbers, dates, or dates and times of the day.

Inside a dataset times are int64 microseconds since 1970 (UTC); `units` makes them of what is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from canet_mobile.data.units import PER_UNIT, SECOND, Floats, calendar_digits, unit_of

Kind = Literal["number", "datetime", "day", "clock"]

_DAY = 86_400 * SECOND
_PATTERNS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f %Z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y-%m-%d",
    "%Y/%m/%d",
)


@dataclass(frozen=True)
class TimeFormat:
    """How to read a time column.

    Attributes:
        kind: numbers in a unit that all rows decide, dates with a time, dates alone, or times of the day.
        pattern: of text.
        step: microseconds that its values tell apart at best, as far as a sample says.
    """

    kind: Kind
    pattern: str | None = None
    step: int = 1


def detect(sample: pl.Series) -> TimeFormat | None:
    """The format most of a sample agrees on; None when nothing reads any of it.

    Args:
        sample: the first few hundred values of the column, text, numbers, dates or datetimes.
    """
    sample = sample.drop_nulls()
    if sample.dtype == pl.Date:
        return TimeFormat("day", step=_DAY)
    if sample.dtype == pl.Time:
        return TimeFormat("clock")
    if sample.dtype.is_temporal():
        return TimeFormat("datetime") if sample.dtype == pl.Datetime else None
    if sample.dtype == pl.String:
        sample = sample.str.strip_chars()
        sample = sample.filter(sample != "")
    numbers = sample.cast(pl.Float64, strict=False).drop_nulls()
    numbers = numbers.filter(numbers.is_finite())
    reads: list[tuple[int, TimeFormat]] = [(len(numbers), _numeric(numbers.to_numpy()))]
    if sample.dtype == pl.String:
        for pattern in _PATTERNS:
            form = TimeFormat(
                "datetime" if "%H" in pattern else "day",
                pattern,
                1
                if "%.f" in pattern
                else SECOND
                if "%S" in pattern
                else 60 * SECOND
                if "%H" in pattern
                else _DAY,
            )
            parsed = pl.DataFrame({"t": sample}).select(expression(pl.col("t"), sample.dtype, form))
            reads.append((len(sample) - parsed["t"].null_count(), form))
    count, best = max(reads, key=lambda read: read[0])
    return best if count else None


def _step(pattern: str) -> int:
    """Microseconds that times written so tell apart."""
    finest = {"%.f": 1, "%S": SECOND, "%H": 60 * SECOND}
    return next((step for part, step in finest.items() if part in pattern), _DAY)


def detect_clock(sample: pl.Series, name: str) -> bool:
    """Whether values are times of the day that go with a date: HHMM, HH:MM(:SS), or ``timeframe``'s ms."""
    sample = sample.drop_nulls()
    if sample.is_empty():
        return False
    parsed = pl.DataFrame({"t": sample}).select(clock(pl.col("t"), sample.dtype, name))["t"]
    return parsed.null_count() == 0


def _numeric(numbers: Floats) -> TimeFormat:
    if not len(numbers):
        return TimeFormat("number")
    unit = calendar_digits(numbers)
    if unit == "YYYYMMDD":
        return TimeFormat("number", step=_DAY)
    if unit is not None:
        return TimeFormat("number", step=SECOND if unit == "YYYYMMDDHHMMSS" else 60 * SECOND)
    per = PER_UNIT[unit_of(float(np.abs(numbers).max()))]
    whole = bool((numbers == np.floor(numbers)).all())
    return TimeFormat("number", step=max(1, int(per if whole else 1)))


def expression(column: pl.Expr, dtype: pl.DataType, form: TimeFormat) -> pl.Expr:
    """The column as it is read: Float64 for numbers (Int64 when it holds integers), int64 microseconds for
    dates; null where it cannot be read."""
    if form.kind == "number":
        if dtype.is_integer():
            return column.cast(pl.Int64, strict=False)
        number = (column.str.strip_chars() if dtype == pl.String else column).cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    if dtype.is_temporal():
        return column.cast(pl.Datetime("us")).to_physical()
    text = column.cast(pl.String).str.strip_chars()
    pattern = form.pattern or ""
    if pattern.endswith(" %Z"):  # "... UTC", as BigQuery and REES46 write it
        text, pattern = text.str.strip_suffix(" UTC"), pattern.removesuffix(" %Z")
    return text.str.to_datetime(pattern, time_unit="us", strict=False).to_physical()


def clock(column: pl.Expr, dtype: pl.DataType, name: str) -> pl.Expr:
    """A time of the day as int64 microseconds since midnight; null where it is none."""
    if dtype == pl.Time:
        return column.to_physical() // 1000
    text = column.cast(pl.String).str.strip_chars()
    number = text.cast(pl.Int64, strict=False)
    if name == "timeframe":  # Diginetica: milliseconds since the session began
        return pl.when((number >= 0) & (number < 7 * 86_400_000)).then(number * 1000)
    packed = pl.when((number >= 0) & (number < 2400) & (number % 100 < 60)).then(
        (number // 100 * 3600 + number % 100 * 60) * SECOND
    )
    pieces = text.str.extract_groups(r"^(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\.\d+)?$")
    hours, minutes, seconds = (pieces.struct[n].cast(pl.Int64, strict=False) for n in range(3))
    spelled = (hours * 3600 + minutes * 60 + seconds.fill_null(0)) * SECOND
    return pl.coalesce(packed, pl.when((hours < 24) & (minutes < 60)).then(spelled))
