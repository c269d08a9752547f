"""The errors a user can act on. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_PARITY = 3
EXIT_INTERRUPTED = 130


class CanetError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: the problem, with the offending value.
        where: the file (and line, column or field) it was found in.
        fix: what the user can do, as a sentence or a command.

    Attributes:
        code: what kind of error it is, for programs that read ``--json``.
        is_told: whether a report on stdout says it already.
    """

    exit_code = EXIT_ERROR
    code: str = "error"
    is_told: bool = False

    def __init__(self, what: str, *, where: object | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{text}\n  fix: {self.fix}" if self.fix else text

    def to_json(self) -> dict[str, dict[str, str | None]]:
        """The error as commands print it with ``--json``."""
        where = None if self.where is None else str(self.where)
        return {"error": {"code": str(self.code), "where": where, "what": self.what, "fix": self.fix}}


class UsageError(CanetError):
    """A command was called with options that do not go together or do not exist."""

    exit_code = EXIT_USAGE
    code = "usage"


class ParityError(CanetError):
    """A package does not compute what its manifest promises."""

    exit_code = EXIT_PARITY
    code = "parity"


def quoted(path: object) -> str:
    """A path as it is typed in a shell, for a command in a fix."""
    return shlex.quote(str(path))


def nearest(value: str, known: Iterable[str]) -> str | None:
    """The known name most like ``value``, or None when nothing is close."""
    matches = difflib.get_close_matches(value, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, value: str, known: Iterable[str], *, where: object | None = None) -> UsageError:
    """The error for a name that does not exist: suggests the nearest one and lists the rest."""
    names = sorted(known)
    guess = nearest(value, names)
    hint = f"did you mean {guess!r}? " if guess else ""
    return UsageError(f"unknown {kind} {value!r}", where=where, fix=f"{hint}known: {', '.join(names)}")
