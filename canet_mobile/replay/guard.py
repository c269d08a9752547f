"""What is refused before a runtime sees it: some answer what lies beyond their tables, and one dies of it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numpy.typing import NDArray

from canet_mobile.errors import unknown_name
from canet_mobile.model.points import POINTS
from canet_mobile.package.manifest import ITEM_MAP
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused

# Of each target's runtime, on PyPI; Core ML is part of the system.
DISTRIBUTIONS = {"executorch": "executorch", "tflite": "ai-edge-litert", "onnx": "onnxruntime"}


def require_runtime(package: Package) -> None:
    """Refuse a runtime that is older than the oldest that was measured right with such packages.

    One that is not installed under its name on PyPI is not judged here; the golden rows judge every one.

    Raises:
        Refused: names both versions.
    """
    runtime = package.manifest.runtime
    minimum = runtime["minimum"]
    distribution = DISTRIBUTIONS.get(package.manifest.target)
    if minimum is None or distribution is None:
        return
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return
    if release(found) < release(str(minimum)):
        raise Refused(
            Code.RUNTIME_TOO_OLD,
            f"needs {runtime['name']} {minimum} or newer; {distribution} {found} is installed here",
            where=package.source,
            fix=f"pip install --upgrade {distribution}",
        )


def release(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (1, 5, 1) of ``1.5.1+cpu``."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def require_entry(package: Package, entry: str) -> None:
    """Refuse an entry that the package does not hold.

    Raises:
        Refused: names the nearest one, and all.
    """
    entries = [package.manifest.router.entry, *(route.entry for route in package.routes)]
    if entry not in entries:
        error = unknown_name("entry", entry, entries)
        raise Refused(Code.ENTRY_UNKNOWN, error.what, where=package.source, fix=error.fix)


def require_point(package: Package, point: int) -> None:
    """Refuse an operating point that is none; some runtimes would answer all the same.

    Raises:
        Refused: names the point, and those there are.
    """
    if not 0 <= point < len(POINTS):
        raise Refused(
            Code.POINT_UNKNOWN,
            f"there is no operating point {point}",
            where=package.source,
            fix=f"one of: {', '.join(f'{number} {name}' for number, name in enumerate(POINTS))}",
        )


def require_length(package: Package, length: int) -> None:
    """Refuse a length that the package's entries are not there for.

    Raises:
        Refused: names those there are.
    """
    if length not in package.lengths:
        raise Refused(
            Code.LENGTH_UNKNOWN,
            f"no entry has {length} positions",
            where=package.source,
            fix=f"one of: {', '.join(map(str, package.lengths))}",
        )


def require_history(package: Package, seq: NDArray[Any]) -> None:
    """Refuse an input that the package's graphs are not made for.

    Args:
        package: tells the length L and the number of items V.
        seq: ids [L] of an integer type, the newest last, 0 where there are none.

    Raises:
        Refused: its shape or type is another, nothing is in it, padding stands behind an item, or an id is
            not of 0..V: then it names the first such id and its position.
    """
    problem = None
    if seq.shape != (package.length,):
        problem = f"has the shape {list(seq.shape)}, expected [{package.length}]"
    elif seq.dtype.kind not in "iu":
        problem = f"holds {seq.dtype}, expected integers"
    elif not seq.any():
        problem = "holds no item, so there is nothing to recommend from"
    elif not seq[seq.astype(bool).argmax() :].all():
        problem = "has padding behind an item; it stands on the left"
    if problem:
        raise Refused(
            Code.HISTORY_INVALID,
            f"the history {problem}",
            where=package.source,
            fix="the newest item last, 0 on the left",
        )
    wrong = (seq < 0) | (seq > package.items)
    if wrong.any():
        place = int(wrong.argmax())
        raise Refused(
            Code.ITEM_UNKNOWN,
            f"the history holds the id {seq[place]} at position {place} of 0..{len(seq) - 1}; the items are "
            f"1..{package.items}, and 0 is padding",
            where=package.source,
            fix=f"give ids of {ITEM_MAP}; leave out items that it does not hold",
        )
