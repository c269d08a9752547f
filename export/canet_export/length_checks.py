"""Do entries answer alike at every length that holds a history?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_export.checks import LIMITS
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.lengths import cut_to, held
from canet_mobile.package.lists import Check, Failure, compare_lists
from canet_mobile.package.package import Package
from canet_mobile.replay.device import ROUTER, Device, RuntimeFailure

# Where every row of an activation has a scale of its own, padding touches no other row: equal to the last
# bit. Elsewhere one scale serves the whole tensor (ONNX Runtime), or kernels add in another order for another
# number of rows (floats): equal within the tolerance of the preset.
BITS = {("executorch", "int8"), ("tflite", "int8")}


def check_lengths(device: Device, package: Package) -> Check:
    """The newest n items of every golden row, at n positions and at every longer length.

    Args:
        device: as `open_device` gives it.
        package: at two lengths or more.
    """
    bits = (package.manifest.target, package.quantization) in BITS
    limits = LIMITS[package.quantization]
    failures: list[Failure] = []
    compared, differing = 0, 0
    for row in package.golden:
        for length in package.lengths[:-1]:
            seq = cut_to(row.input, length)
            case = f"golden.jsonl line {row.line}, newest {held(seq)}"
            for longer in package.lengths[package.lengths.index(length) + 1 :]:
                compared += 1
                try:
                    short, long = (_answers(device, row.entry, seq, n) for n in (length, longer))
                except RuntimeFailure as error:
                    failures.append(Failure("lengths", row.entry, case, "call", "an answer", error.what))
                    continue
                if short.routes != long.routes:
                    where = f"route at {length} and {longer} positions"
                    expected, found = (", ".join(map(str, each.routes)) for each in (long, short))
                    failures.append(Failure("lengths", ROUTER, case, where, expected, found))
                same = np.array_equal(short.scores, long.scores) and np.array_equal(short.ids, long.ids)
                differing += not same
                if same:
                    continue
                if bits:
                    gap = f"{np.abs(short.scores - long.scores).max():.2e}"
                    what = f"scores at {length} and {longer} positions"
                    failures.append(Failure("lengths", row.entry, case, what, "the same bits", f"{gap} off"))
                    continue
                tolerance = limits.tolerance(long.scores)
                found_lists = compare_lists(
                    long.scores.astype(np.float64), long.ids, short.scores, short.ids, tolerance=tolerance
                )
                failures += [
                    Failure("lengths", row.entry, case, d.tensor, d.expected, d.found, d.error / tolerance)
                    for d in found_lists.differences
                ]
    how = "bit for bit" if bits else "within the tolerance"
    detail = f"{compared} answers at two lengths each, {differing} not of the same bits; compared {how}"
    return Check("lengths", not failures, compared, None, None, detail, tuple(failures))


@dataclass(frozen=True, eq=False)
class _Answers:
    """Routes at every operating point, scores [k] and ids [k] at one length."""

    routes: list[int]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


def _answers(device: Device, entry: str, seq: NDArray[np.int32], length: int) -> _Answers:
    assert device.exact is not None
    routes = [
        int(device.exact(ROUTER, length, seq, point).outputs[0].reshape(-1)[0])
        for point in range(len(POINTS))
    ]
    scores, ids = device.exact(entry, length, seq, BALANCED).outputs
    return _Answers(routes, scores.reshape(-1), ids.reshape(-1).astype(np.int64))
