"""One unit for a column of times, which every row is held to.

A row of another unit, or a stand-in for "no time" (0, -1, the year 9999), would sort its interaction to the
wrong end of a history without a word.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from canet_mobile.data.names import EARLIEST_SECOND, LATEST_SECOND, counted

TimeUnit = Literal["s", "ms", "us", "ns", "YYYYMMDD", "YYYYMMDDHHMM", "YYYYMMDDHHMMSS", "datetime"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PER_UNIT: dict[TimeUnit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
SECOND = 1_000_000
# In microseconds. Numbers below the first, in seconds, count.
EARLIEST, LATEST = EARLIEST_SECOND * SECOND, LATEST_SECOND * SECOND
LONGEST_YEARS = 60

_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_LARGEST: tuple[tuple[TimeUnit, float], ...] = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
_DIGITS: dict[TimeUnit, int] = {"YYYYMMDD": 8, "YYYYMMDDHHMM": 12, "YYYYMMDDHHMMSS": 14}
_YEAR = 365.2425 * 86_400 * SECOND


class WrongTime(Exception):
    """A row whose time cannot stand beside the others.

    Args:
        row: its number, from 0.
        why: the value and what is wrong with it.
    """

    def __init__(self, row: int, why: str) -> None:
        self.row, self.why = row, why
        super().__init__(why)


def to_microseconds(values: Floats | Ints, *, numbers: bool) -> tuple[Ints, TimeUnit]:
    """Times of all rows in one unit, held to what is possible.

    Args:
        values: [n] numbers, or microseconds since 1970.
        numbers: whether they are numbers whose unit is to be found.

    Returns:
        [n] int64 microseconds since 1970, and the unit. Numbers that count from 0 are taken for seconds,
        which keeps their order.

    Raises:
        WrongTime: the first row that has another unit than most, or lies where no log of ours does.
    """
    if not numbers:
        stamps: Ints = values.astype(np.int64)
        _refuse_impossible(stamps, values, "datetime")
        return stamps, "datetime"
    digits = calendar_digits(values[:1000])
    if digits is not None:
        return _from_digits(values, digits), digits
    low, high = float(values.min()), float(values.max())
    if max(abs(low), abs(high)) < EARLIEST / SECOND:
        negative = np.flatnonzero(values < 0)
        if len(negative):
            raise WrongTime(
                int(negative[0]), f"holds {_shown(values[negative[0]])}, which is before the count began"
            )
        return np.round(values * 1e6).astype(np.int64), "s"
    unit = unit_of(abs(high)) if unit_of(abs(low)) == unit_of(abs(high)) else _most(np.abs(values))
    per = PER_UNIT[unit]
    if values.dtype.kind == "i":
        most = int(9e18 / max(per, 1.0))  # beyond it the product would wrap round into some year of ours
        whole = np.clip(values, -most, most).astype(np.int64)
        stamps = whole * int(per) if per >= 1 else whole // 1000
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            stamps = np.round(np.clip(values * per, -9e18, 9e18)).astype(np.int64)
    _refuse_impossible(stamps, values, unit)
    return stamps, unit


def unit_of(size: float) -> TimeUnit:
    """The unit of a number by its size: below 1e11 s, below 1e14 ms, below 1e17 us, else ns.

    The boundaries lie in 1973 for the finer unit and in the year 5138 for the coarser.
    """
    return next((unit for unit, limit in _LARGEST if size < limit), "ns")


def _most(size: Floats | Ints) -> TimeUnit:
    """The unit that most values have by their size."""
    units: list[TimeUnit] = ["s", "ms", "us", "ns"]
    counts = np.bincount(np.searchsorted([limit for _, limit in _LARGEST], size, side="right"), minlength=4)
    return units[int(counts.argmax())]


def _refuse_impossible(stamps: Ints, values: Floats | Ints, unit: str) -> None:
    """One unit for a column, and no span that no log has."""
    low, high = int(stamps.min()), int(stamps.max())
    if low >= EARLIEST and high < LATEST and (high - low) / _YEAR <= LONGEST_YEARS:
        return
    wrong = np.flatnonzero((stamps < EARLIEST) | (stamps >= LATEST))
    if len(wrong) == len(stamps):
        raise WrongTime(
            0, f"holds {_shown(values[0], unit)}, read as {_words(unit)} a time of {_year(stamps[0])}"
        )
    if len(wrong):
        row, inside = int(wrong[0]), np.delete(stamps, wrong)
        raise WrongTime(
            row,
            f"holds {_shown(values[row], unit)} {_odd(float(values[row]), unit)}, and the others are times "
            f"of {_years(inside)} in {_words(unit)} ({counted(len(wrong), 'such row')})",
        )
    row = int(np.abs(stamps - float(np.median(stamps))).argmax())
    raise WrongTime(
        row,
        f"holds {_shown(values[row], unit)}, a time of {_year(stamps[row])}, and times "
        f"{(high - low) / _YEAR:.0f} years apart are no log of taps or purchases: a stand-in for no time?",
    )


def _odd(value: float, unit: str) -> str:
    """What a value may be that is no time in the unit of the others."""
    for other, per in PER_UNIT.items():
        if unit in PER_UNIT and other != unit and EARLIEST <= value * per < LATEST:
            return f"({_words(other)}?)"
    return "(a stand-in for no time?)"


def _years(stamps: Ints) -> str:
    first, last = _year(stamps.min()), _year(stamps.max())
    return first if first == last else f"{first} to {last}"


def calendar_digits(values: Floats | Ints) -> TimeUnit | None:
    """Whether numbers are dates written in digits, most of them, and which."""
    for unit, digits in _DIGITS.items():
        if len(values) and _valid_digits(values, digits).mean() > 0.5:
            return unit
    return None


def _valid_digits(values: Floats | Ints, digits: int) -> NDArray[np.bool_]:
    whole = (values == np.floor(values)) & (values >= 10 ** (digits - 1)) & (values < 10**digits)
    number = np.where(whole, np.clip(values, 0, 9e14), 0).astype(np.int64) * 10 ** (14 - digits)
    day, rest = number // 1_000_000, number % 1_000_000
    month = day // 100 % 100
    return (
        whole
        & (day // 10_000 >= 1980)
        & (day // 10_000 < 2100)
        & (month >= 1)
        & (month <= 12)
        & (day % 100 >= 1)
        & (day % 100 <= 31)
        & (rest // 10_000 < 24)
        & (rest // 100 % 100 < 60)
        & (rest % 100 < 60)
    )


def _from_digits(values: Floats | Ints, unit: TimeUnit) -> Ints:
    digits = _DIGITS[unit]
    wrong = np.flatnonzero(~_valid_digits(values, digits))
    if len(wrong):
        raise WrongTime(int(wrong[0]), f"holds {_shown(values[wrong[0]])} among dates written as {unit}")
    number = values.astype(np.int64) * 10 ** (14 - digits)
    text = pl.Series(number).cast(pl.String).str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
    impossible = np.flatnonzero(text.is_null().to_numpy())
    if len(impossible):  # the 31st of a month of 30 days
        raise WrongTime(
            int(impossible[0]), f"holds {_shown(values[impossible[0]])}, which is no date ({unit})"
        )
    stamps = text.to_physical().to_numpy()
    _refuse_impossible(stamps, values, unit)
    return stamps


def _shown(value: float, unit: str = "") -> str:
    """A value as it stands in the log, nearly."""
    if unit == "datetime":
        return _date(int(value))
    return f"{int(value)}" if value == int(value) else f"{value}"


def _words(unit: str) -> str:
    return _IN_WORDS.get(unit, unit)


def _date(stamp: int) -> str:
    try:
        return datetime.fromtimestamp(stamp / SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0")
    except (ValueError, OverflowError, OSError):
        return f"the year {_year(stamp)}"


def _year(stamp: int) -> str:
    near = abs(stamp) < 7000 * _YEAR
    return (
        str(np.datetime64(int(stamp), "us").astype("datetime64[Y]"))
        if near
        else f"{1970 + int(stamp / _YEAR):,}"
    )
