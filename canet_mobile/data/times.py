"""What a log's times are written in. Inside a dataset they are int64 microseconds since 1970 (UTC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

TimeUnit = Literal["s", "ms", "us", "ns", "datetime"]

_TO_MICROSECONDS: dict[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_LARGEST: tuple[tuple[TimeUnit, float], ...] = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
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
    """How to read a time column: its unit, and the pattern when it is text."""

    unit: TimeUnit
    pattern: str | None = None


def numeric_unit(values: pl.Series) -> TimeUnit:
    """The unit of numeric times by their size: below 1e11 s, below 1e14 ms, below 1e17 us, else ns.

    The boundaries lie in 1973 for the finer unit and in the year 5138 for the coarser, so a log of
    our days is never ambiguous; counters that start at 0 are read as seconds, which keeps their order.
    """
    largest = values.cast(pl.Float64, strict=False).abs().max()
    size = float(largest) if isinstance(largest, (int, float)) else 0.0
    return next((unit for unit, limit in _LARGEST if size < limit), "ns")


def detect(sample: pl.Series) -> TimeFormat | None:
    """The format most of a sample agrees on; None when nothing reads any of it.

    Args:
        sample: the first few hundred values of the column, text, numbers, dates or datetimes.
    """
    sample = sample.drop_nulls()
    if sample.dtype.is_temporal():
        return TimeFormat("datetime")
    if sample.dtype.is_numeric():
        return TimeFormat(numeric_unit(sample))
    numbers = sample.cast(pl.Float64, strict=False).drop_nulls()
    reads: list[tuple[int, TimeFormat]] = [(len(numbers), TimeFormat(numeric_unit(numbers)))]
    for pattern in _PATTERNS:
        form = TimeFormat("datetime", pattern)
        parsed = pl.DataFrame({"t": sample}).select(microseconds(pl.col("t"), sample.dtype, form))
        reads.append((len(sample) - parsed["t"].null_count(), form))
    count, best = max(reads, key=lambda read: read[0])
    return best if count else None


def microseconds(column: pl.Expr, dtype: pl.DataType, form: TimeFormat) -> pl.Expr:
    """The column as int64 microseconds since 1970; null where it cannot be read."""
    if dtype.is_temporal():
        return column.cast(pl.Datetime("us")).to_physical()
    if form.unit == "datetime":
        text = column.cast(pl.String).str.strip_chars()
        if form.pattern and form.pattern.endswith(" %Z"):  # "... UTC", as BigQuery and REES46 write it
            text, pattern = text.str.strip_suffix(" UTC"), form.pattern.removesuffix(" %Z")
            return text.str.to_datetime(pattern, time_unit="us", strict=False).to_physical()
        return text.str.to_datetime(form.pattern, time_unit="us", strict=False).to_physical()
    text = column.str.strip_chars() if dtype == pl.String else column
    number = text.cast(pl.Float64, strict=False) * _TO_MICROSECONDS[form.unit]
    return pl.when(number.is_finite()).then(number.round()).cast(pl.Int64, strict=False)
