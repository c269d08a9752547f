"""JSON as four languages read it alike: what one parser takes and another refuses is refused here.

RFC 8259 leaves open what a key given twice means, how large a number may be and how deep a document may go,
and parsers answer differently. These are the rules of RFC 7493 (I-JSON), with integers of 64 bits.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 64  # our deepest document has 7 levels
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
_DIGITS = len(str(MIN_INTEGER))


class JsonProblem(ValueError):
    """A document that is no JSON, or that two parsers could read differently."""


def parse_json(data: bytes) -> Any:
    """Parse one JSON document.

    Args:
        data: UTF-8 without a byte order mark.

    Raises:
        JsonProblem: it is not JSON (line and column are named), gives a key twice, holds NaN, an infinity, a
            number beyond 64 bits, half of a surrogate pair, or is nested deeper than :data:`MAX_DEPTH`.
    """
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise JsonProblem("begins with a byte order mark; it must be UTF-8 without one")
    try:
        text = data.decode("utf-8")
        found = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise JsonProblem(f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise JsonProblem(f"not valid JSON ({error})") from error
    except RecursionError as error:
        raise JsonProblem(f"nested deeper than {MAX_DEPTH} levels") from error
    _require_sound(found, "\\u" in text)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonProblem(f"the key {_short(twice)} is given twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > _DIGITS or not MIN_INTEGER <= int(text) <= MAX_INTEGER:
        raise JsonProblem(f"the integer {text[:24]} … does not fit 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonProblem(f"the number {text[:24]} is larger than any float64")
    return value


def _constant(name: str) -> NoReturn:
    raise JsonProblem(f"{name} is no JSON number")


def _require_sound(document: Any, escaped: bool) -> None:
    """No part of it is too deep, or (where there are escapes) holds half of a surrogate pair."""
    kinds = (dict, list, str) if escaped else (dict, list)
    stack = [(document, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            if escaped and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise JsonProblem(f"{_short(value)} holds half of a surrogate pair, which is no character")
            continue
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise JsonProblem(f"nested deeper than {MAX_DEPTH} levels")
        inner = value.values() if isinstance(value, dict) else value
        stack.extend((each, depth + 1) for each in inner if isinstance(each, kinds))
        if escaped and isinstance(value, dict):
            stack.extend((key, depth + 1) for key in value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]} …")
