"""Names of files that every file system keeps apart and every language writes to the same place."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_NAME = 255  # characters of the whole name: less than any system's limit for a path
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
_NO_NAME = set('<>:"|?*\\') | {chr(code) for code in range(32)} | {chr(127)}


def leaves_the_package(name: str) -> bool:
    """Whether a relative name with forward slashes leads elsewhere on some system, or is written oddly."""
    parts = name.split("/")
    return "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts)


def odd_name(name: str) -> str | None:
    """What is wrong with one name, in words; None when every system can hold it."""
    if len(name) > MAX_NAME:
        return f"{name[:40]!r} … is a name of {len(name)} characters, more than {MAX_NAME}"
    for part in name.split("/"):
        if part.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
            return f"{name!r} is a name that Windows keeps for devices"
        if part.endswith((".", " ")):
            return f"{name!r} ends in a dot or a blank, which Windows cuts off"
        if _NO_NAME & set(part):
            return f"{name!r} holds a character that some systems do not allow in a name"
    return None


def clash(names: Iterable[str]) -> str | None:
    """Two names that are one file on a system that folds case or Unicode forms; or a file that is a folder.

    Returns:
        Which two, in words; None when there are none.
    """
    spelled: dict[str, str] = {}
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            part = "/".join(parts[:end])
            key = folded(part)
            if spelled.setdefault(key, part) != part:
                return f"{spelled[key]!r} and {part!r} are one name on some systems"
            kind = files if end == len(parts) else folders
            if end == len(parts) and key in files:
                return f"{name!r} is given twice"
            kind[key] = name
            if key in files and key in folders:
                return f"{part!r} is a file and a folder"
    return None


def folded(name: str) -> str:
    """One spelling for all names that some system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
