"""Which column plays which role: the ones asked for, or well-known names whose values fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from canet_mobile.data import times
from canet_mobile.data.names import (
    CLOCK_NAMES,
    ITEM_NAMES,
    NULL_LIKE,
    TIME_NAMES,
    USER_NAMES,
    number_like,
    plain,
    time_like,
)
from canet_mobile.data.source import Source, column_names, first_row, head_table
from canet_mobile.errors import UsageError, nearest

Note = Callable[[str], None]

_WIDEST_GUESS = 5


@dataclass(frozen=True)
class Columns:
    """Which column plays which role; all None for `sequences`, which has no columns.

    Attributes:
        user, item: columns of ids.
        time: column of times, or None.
        clock: column of the time of the day, when ``time`` holds dates alone.
    """

    user: str | None
    item: str | None
    time: str | None
    clock: str | None = None

    @property
    def times(self) -> str | None:
        """The column, or both, as ``--time`` takes them."""
        return f"{self.time}+{self.clock}" if self.clock else self.time

    def __str__(self) -> str:
        if self.user is None:
            return "one history a line"
        return f"user={self.user}, item={self.item}, time={self.times or 'none'}"


def choose_columns(
    source: Source, user: str | None, item: str | None, time: str | None, note: Note = lambda message: None
) -> tuple[Source, Columns]:
    """The columns asked for, or the ones whose names are well known and whose values fit.

    Args:
        source: as opened.
        user, item: as asked for; None finds them.
        time: as asked for: a column, ``date+clock``, or ``none`` for file order; None finds the finest.
        note: told what was passed over.

    Returns:
        The source, whose first line may turn out to be a row, and the columns.

    Raises:
        UsageError: a column asked for is missing, or none is named like a user or an item.
    """
    if source.format == "sequences":
        if any((user, item, time)):
            raise UsageError(
                "a sequence file has no columns to name",
                where=source.path,
                fix="leave --user, --item and --time out, or pass --separator blank",
            )
        return source, Columns(None, None, None)
    if source.format in ("csv", "tsv") and not (user and item):
        source, guessed = _without_header(source, note)
        if guessed is not None:
            user, item, time = user or guessed.user, item or guessed.item, time or guessed.time or "none"
    names = column_names(source)
    head = head_table(source)
    known = [choose_column(role, names, listed, asked, source.path) for role, listed, asked in (
        ("user", _with_values(head, names, USER_NAMES), user), ("item", ITEM_NAMES, item),
    )]  # fmt: skip
    for article, role, name in (("a", "user", known[0]), ("an", "item", known[1])):
        if name is None:
            raise UsageError(
                f"no column is named like {article} {role}; columns: {', '.join(names)}",
                where=source.path,
                fix=f"pass --{role} COLUMN{_row_hint(source, names)}",
            )
    when, clock = _choose_time(source, head, names, time, {*known}, note)
    chosen = Columns(known[0], known[1], when, clock)
    used = [name for name in (chosen.user, chosen.item, chosen.time, chosen.clock) if name]
    if len(set(used)) < len(used):
        raise UsageError(f"one column plays two roles: {chosen}", where=source.path, fix="name them apart")
    for role, listed, asked in (("user", USER_NAMES, user), ("item", ITEM_NAMES, item)):
        others = [other for other in names if plain(other) in listed and other not in used]
        if asked is None and others:
            name = chosen.user if role == "user" else chosen.item
            note(f"note: {role} = {name}; passed over: {', '.join(others)} (--{role} takes another)")
    return source, chosen


def choose_column(
    role: str, names: list[str], known: Sequence[str], asked: str | None, where: object
) -> str | None:
    """The column for a role: the one asked for, else the first known name that is there, else None.

    Raises:
        UsageError: the column asked for is not there; lists what is, with the nearest name.
    """
    if asked is not None:
        if asked in names:
            return asked
        guess = nearest(asked, names)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UsageError(
            f"no column {asked!r} (--{role})", where=where, fix=f"{hint}columns: {', '.join(names)}"
        )
    lowered = {plain(name): name for name in reversed(names)}
    return next((lowered[name] for name in known if name in lowered), None)


def _with_values(head: pl.DataFrame, names: list[str], known: Sequence[str]) -> list[str]:
    """The known names, those whose first values mean "none" last: Diginetica's userId is mostly NA."""
    absent = {
        plain(name)
        for name in names
        if plain(name) in known and head[name].cast(pl.String, strict=False).is_in(list(NULL_LIKE)).any()
    }
    return [name for name in known if name not in absent] + [name for name in known if name in absent]


def _choose_time(
    source: Source, head: pl.DataFrame, names: list[str], asked: str | None, used: set[str | None], note: Note
) -> tuple[str | None, str | None]:
    """The column of the times, and the one of the times of the day beside it."""
    if asked == "none":
        return None, None
    if asked is not None:
        date, plus, clock = asked.rpartition("+")
        if asked not in names and plus and date in names and clock in names:
            return date, clock
        return choose_column("time", names, (), asked, source.path), None
    found = []
    spelled = [name for name in names if plain(name) in TIME_NAMES]
    for order, name in sorted((TIME_NAMES.index(plain(name)), name) for name in spelled):
        form = None if name in used else times.detect(head[name])
        if form is not None and form.kind != "clock":
            found.append((_fineness(head[name], form, plain(name)), order, name))
    clocks = [
        name for name in names
        if plain(name) in CLOCK_NAMES and name not in used and times.detect_clock(head[name], plain(name))
    ]  # fmt: skip
    if not found:
        left = [name for name in spelled if name not in used]
        return (left[0] if left else None), None  # refused with its first value when it is read
    fineness, _, best = min(found)
    others = [name for _, _, name in sorted(found) if name != best]
    beside = None
    if fineness >= 86_400 and clocks:
        dates = [name for _, _, name in sorted(found) if name not in clocks]
        best, beside = (dates[0], clocks[0]) if dates else (best, None)
        others = [name for name in others if name not in (best, beside)]
    others += [name for name in clocks if name not in (best, beside, *others)]
    if others or beside:
        what = f"{best}+{beside}, a date and a time of the day" if beside else f"{best}, the finest"
        passed = f"; passed over: {', '.join(others)}" if others else ""
        note(f"note: time = {what}{passed} (--time takes another)")
    return best, beside


def _fineness(values: pl.Series, form: times.TimeFormat, name: str) -> float:
    """Seconds that a column tells apart; what counts from 0 comes after every date."""
    counts = form.kind == "number" and form.step < 86_400_000_000
    if counts and not all(time_like(str(value)) for value in values.drop_nulls().to_list()[:200]):
        return 1e9 if name in CLOCK_NAMES else 1e6
    if form.kind == "datetime" and form.step <= 1_000_000:
        read = pl.DataFrame({"t": values}).select(times.expression(pl.col("t"), values.dtype, form))["t"]
        return 1e-3 if (read.drop_nulls() % 1_000_000 != 0).any() else 1.0
    return max(form.step / 1e6, 1e-3)


def _without_header(source: Source, note: Note) -> tuple[Source, Columns | None]:
    """The source with its first line as a row, if it is one, and the roles of its columns.

    Known by their shape: MovieLens (user, item, rating, time), Yoochoose (session, time, item, category) and
    their like: whole numbers for user and item, one column of times, five columns at most. A file that is
    separated by blanks or ``::`` may do without times.
    """
    first = first_row(source)
    if source.header and not _is_row(first):
        return source, None
    _refuse_known(source, first)
    bare = replace(source, header=False)
    head, bare_names = head_table(bare), column_names(bare)
    timed = [name for name in bare_names if all(time_like(str(value or "")) for value in head[name])]
    counted = bare_names[-1] if len(bare_names) == 4 and _numbers(head[bare_names[-1]], least=1e7) else None
    if source.split and not timed and counted:
        timed = [counted]
    rest = [name for name in bare_names if name not in timed]
    fits = len(timed) == 1 if not source.split else len(timed) < 2
    if not fits or len(rest) < 2 or len(bare_names) > _WIDEST_GUESS:
        return source, None
    if not source.split and not all(_numbers(head[name], whole=True) for name in rest[:2]):
        return source, None
    chosen = Columns(rest[0], rest[1], timed[0] if timed else None)
    if source.header:
        note(f"note: the first line is a row, read as {chosen} (--user, --item and --time take others)")
    return bare, chosen


def _refuse_known(source: Source, first: list[str]) -> None:
    """Say what two public logs without a header are that cannot be read as they are."""
    if len(first) == 6 and first[0].startswith("user_") and time_like(first[1]):
        raise UsageError(
            "looks like Last.fm's 1K listening log: user, time, artist id, artist, track id, track",
            where=source.path,
            fix="pass --no-header --user column_1 --time column_2 --item column_4 (the artist; many track "
            "ids of column_5 are empty)",
        )
    if len(first) == 5 and first[0].isdigit() and first[2].endswith((" AM", " PM")):
        raise UsageError(
            "looks like MIND's behaviors.tsv: a line holds a whole history (column_4) and what was shown",
            where=source.path,
            fix="write one history a line: awk -F'\\t' '$4 {print $2, $4}' "
            f"{source.path.name} | sort -u > histories.txt",
        )


def _is_row(fields: Sequence[str]) -> bool:
    return any(number_like(field) or time_like(field) for field in fields)


def _numbers(values: pl.Series, *, least: float = float("-inf"), whole: bool = False) -> bool:
    """Whether all values are numbers, and whole ones."""
    texts = [str(value or "") for value in values]
    return all(text.strip().isdigit() if whole else number_like(text, least) for text in texts)


def _row_hint(source: Source, names: list[str]) -> str:
    if not source.header or not _is_row(names):
        return ""
    numbered = f"; its first row is {', '.join(names)}"
    return f" (is the first line a row? then pass --no-header --user column_1 --item column_2{numbered})"
