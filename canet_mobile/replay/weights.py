"""Are a checkpoint's numbers, to the last byte, in the model file?

Scores cannot tell that one weight is off by a little. Bytes can: every constant of every exported graph must
stand verbatim in the model file, each at a place of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from canet_mobile.model.canet import Canet
from canet_mobile.replay.compare import Check, Failure
from canet_mobile.replay.package import Package

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


def check_weights(package: Package, reference: Canet) -> Check:
    """Find every constant that the checkpoint puts into this package's graphs in its model file.

    Args:
        package: an fp32 or int8 package for executorch.
        reference: its checkpoint.
    """
    blob = package.model_path.read_bytes()
    constants = expected_constants(package, reference)
    failures = []
    claimed: list[tuple[int, int]] = []
    # The longest first: a small slice can be the beginning of a larger one, and needs its own place.
    for constant in sorted(constants, key=lambda constant: -len(constant.data)):
        size = len(constant.data)
        start = _unclaimed(blob, constant.data, claimed)
        if start is None:
            expected = f"these {size} bytes in {package.model_path.name}"
            found = _nearest(blob, constant.data)
            failures.append(Failure("weights", constant.entry, None, constant.name, expected, found))
        else:
            insort(claimed, (start, start + size))
    share = 1 - len(failures) / len(constants)
    detail = (
        f"{len(constants) - len(failures)} of {len(constants)} constants stand verbatim in the model file"
    )
    return Check("weights", not failures, len(constants), share, 1.0, detail, tuple(failures))


def expected_constants(package: Package, reference: Canet) -> list[Constant]:
    """Every constant that the exporter puts into the package; equal ones of one store stand there once."""
    found: dict[tuple[bool, bytes], Constant] = {}
    for constant in _all_constants(package, reference):
        found.setdefault((constant.is_table, constant.data), constant)
    return list(found.values())


def _all_constants(package: Package, reference: Canet) -> Iterator[Constant]:
    from canet_export.executorch import build_graphs
    from canet_export.integers import quantize_model
    from canet_export.sizes import constants, tensor_bytes

    integers = quantize_model(reference) if package.quantization == "int8" else None
    routes = [route.route for route in package.routes]
    graphs = build_graphs(reference, integers, routes, package.k, package.manifest["seen"])
    for entry, graph in graphs.items():
        for path, tensor in constants(graph):
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


def _nearest(blob: bytes, data: bytes) -> str:
    """What stands where a constant should: its place, by a piece of it that is whole, and what differs."""
    wanted = np.frombuffer(data, np.uint8)
    for offset in range(0, max(1, len(data) - PROBE), max(1, len(data) // 16)):
        place = blob.find(data[offset : offset + PROBE])
        start = place - offset
        if place >= 0 and start >= 0 and start + len(data) <= len(blob):
            there = np.frombuffer(blob, np.uint8, len(data), start)
            differ = np.flatnonzero(there != wanted)
            if 0 < len(differ) <= len(data) // 2:
                first = int(differ[0])
                return (
                    f"{len(differ)} other byte(s) at offset {start + first}: "
                    f"0x{there[first]:02x} for 0x{wanted[first]:02x}"
                )
    return "nothing like them"
