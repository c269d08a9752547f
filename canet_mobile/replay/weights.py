"""Are a checkpoint's numbers, to the last byte, in the model file?

Scores cannot tell that one weight is off by a little. Bytes can: every constant of every exported graph must
stand verbatim in the model file, each at a place of its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from canet_mobile.model.canet import Canet
from canet_mobile.replay.compare import Check, Failure
from canet_mobile.replay.host import ROUTER
from canet_mobile.replay.package import Package

if TYPE_CHECKING:
    from canet_export.integers import IntegerModel

PROBE = 16  # bytes that tell where a damaged constant stands


@dataclass(frozen=True)
class Constant:
    """One constant of a graph: the first entry that needs it, its name there, and its bytes."""

    entry: str
    name: str
    data: bytes


def check_weights(package: Package, reference: Canet) -> Check:
    """Find every constant that the checkpoint puts into this package's graphs in its model file."""
    blob = package.model_path.read_bytes()
    constants: dict[bytes, Constant] = {}
    for constant in expected_constants(package, reference):
        constants.setdefault(constant.data, constant)
    failures = []
    claimed: list[tuple[int, int]] = []
    # The longest first: a small slice can be the beginning of a larger one, and needs its own place.
    for data, constant in sorted(constants.items(), key=lambda pair: -len(pair[0])):
        start = _unclaimed(blob, data, claimed)
        if start is None:
            expected = f"these {len(data)} bytes in {package.model_path.name}"
            failures.append(
                Failure("weights", constant.entry, None, constant.name, expected, _nearest(blob, data))
            )
        else:
            insort(claimed, (start, start + len(data)))
    found = len(constants) - len(failures)
    detail = f"{found} of {len(constants)} constants stand verbatim in the model file"
    return Check(
        "weights", not failures, len(constants), found / len(constants), 1.0, detail, tuple(failures)
    )


def expected_constants(package: Package, reference: Canet) -> Iterator[Constant]:
    """Every constant that an exporter puts into the package, route by route."""
    from canet_export.graph import ConstantRouter, Leaf, RouteGraph, RouterGraph, Weights
    from canet_export.integers import fold_residuals, quantize_model

    integers = quantize_model(reference) if package.quantization == "int8" else None
    folded = fold_residuals(reference)
    weights = Weights(folded)
    router = ConstantRouter() if folded.router is None else RouterGraph(weights, folded)
    graphs: list[tuple[str, nn.Module]] = [(ROUTER, router)]
    for route in package.routes:
        seen = package.manifest["seen"]
        graphs.append((route.entry, RouteGraph(weights, folded, route.route, package.k, seen)))
    for entry, graph in graphs:
        for path, module in graph.named_modules():
            leaf = module if isinstance(module, Leaf) else None
            for name, tensor in module.named_parameters(recurse=False):
                if leaf is not None and name == "weight":
                    yield from _matrix(entry, leaf, integers)
                else:
                    yield Constant(entry, f"{path}.{name}".lstrip("."), _bytes(tensor))


def _matrix(entry: str, leaf: object, integers: IntegerModel | None) -> Iterator[Constant]:
    source, weight = leaf.source, leaf.weight  # type: ignore[attr-defined]
    part = "" if source.part is None else f"[{source.part}]"
    name = f"{source.name}{part}[:{source.rows}, {source.start}:{source.stop}]"
    quantized = None if integers is None else integers.tensors.get(source.name)
    if quantized is None:
        yield Constant(entry, name, _bytes(weight))
    else:
        yield Constant(entry, f"{name} (int8)", _bytes(source.of(quantized.values)))
        yield Constant(entry, f"{name} (scales)", _bytes(source.of(quantized.scale)))


def _bytes(tensor: Tensor) -> bytes:
    array = tensor.detach().contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


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
