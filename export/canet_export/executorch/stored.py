"""Are a checkpoint's numbers, to the last byte, in the model file?

Scores cannot tell that one weight is off by a little. Bytes can: every constant of every exported graph must
stand verbatim in the model file or its parts, each at a place of its own. Integers of int4 are looked for as
they are packed (two in a byte, in XNNPACK's order or the embedding's), scales of int4 layers as bfloat16.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canet_export.executorch.export import MODEL_FILE, job_graphs
from canet_export.executorch.operators import as_stored
from canet_export.executorch.parts import SUFFIX
from canet_export.job import Job
from canet_export.sizes import constants, tensor_bytes
from canet_mobile.package.lists import Check, Failure

NOT_LEARNT = ("future", "mean")  # constants that the graphs make themselves; not every route uses them
TABLES = "table."  # item tables stay outside the delegate, which has a store of its own
PROBE = 16  # bytes that tell where a damaged constant stands


@dataclass(frozen=True)
class Constant:
    """One constant of a graph: the first entry that needs it, its name there, its store and its bytes."""

    entry: str
    name: str
    is_table: bool
    data: bytes


def check_stored(directory: Path, job: Job) -> Check:
    """Find every constant that the job's numbers put into the graphs in the written file.

    Args:
        directory: holds ``canet.pte`` and, when it was split, its parts.
        job: what was exported.
    """
    names = [MODEL_FILE]
    if job.split:
        names += sorted(path.name for path in directory.glob(f"*{SUFFIX}"))
    blobs = {name: (directory / name).read_bytes() for name in names}
    blob = b"".join(blobs.values())
    expected_all = expected_constants(job)
    failures = []
    claimed: list[tuple[int, int]] = []
    # The longest first: a small slice can be the beginning of a larger one, and needs its own place.
    for constant in sorted(expected_all, key=lambda constant: -len(constant.data)):
        size = len(constant.data)
        start = _unclaimed(blob, constant.data, claimed)
        if start is None:
            expected = f"these {size} bytes in {MODEL_FILE}{' or a part' if job.split else ''}"
            nearest = _nearest(blobs, constant.data)
            failures.append(Failure("weights", constant.entry, None, constant.name, expected, nearest))
        else:
            insort(claimed, (start, start + size))
    total = len(expected_all)
    found = total - len(failures)
    where = "the model file" if len(names) == 1 else f"the model file and its {len(names) - 1} parts"
    detail = f"{found} of {total} constants stand verbatim in {where}"
    return Check("weights", not failures, total, found / total, 1.0, detail, tuple(failures))


def expected_constants(job: Job) -> list[Constant]:
    """Every constant that the exporter puts into the file; equal ones of one store stand there once.

    The parts of a split package are one store for both.
    """
    found: dict[tuple[bool, bytes], Constant] = {}
    for constant in _all_constants(job):
        found.setdefault((constant.is_table and not job.split, constant.data), constant)
    return list(found.values())


def _all_constants(job: Job) -> Iterator[Constant]:
    for entry, graph in job_graphs(job).items():
        for path, tensor in constants(as_stored(graph)):
            if not path.endswith(NOT_LEARNT):
                yield Constant(entry, path, path.startswith(TABLES), tensor_bytes(tensor))


def _unclaimed(blob: bytes, data: bytes, claimed: list[tuple[int, int]]) -> int | None:
    """Where ``data`` stands outside the sorted, disjoint ``claimed`` ranges."""
    start = blob.find(data)
    while start >= 0:
        end = start + len(data)
        place = bisect_left(claimed, (end, 0))
        if place == 0 or claimed[place - 1][1] <= start:
            return start
        start = blob.find(data, claimed[place - 1][1])
    return None


def _nearest(blobs: dict[str, bytes], data: bytes) -> str:
    """What stands where a constant should: its place, by a piece of it that is whole, and what differs."""
    wanted = np.frombuffer(data, np.uint8)
    least, nearest = len(data) // 2 + 1, "nothing like them"
    for offset in range(0, max(1, len(data) - PROBE), max(1, len(data) // 16)):
        for name, blob in blobs.items():
            start = blob.find(data[offset : offset + PROBE]) - offset
            if start < 0 or start + len(data) > len(blob):
                continue
            there = np.frombuffer(blob, np.uint8, len(data), start)
            differ = np.flatnonzero(there != wanted)
            if 0 < len(differ) < least:
                first = int(differ[0])
                least = len(differ)
                nearest = (
                    f"{least} other byte(s) at offset {start + first} of {name}: "
                    f"0x{there[first]:02x} for 0x{wanted[first]:02x}"
                )
    return nearest
