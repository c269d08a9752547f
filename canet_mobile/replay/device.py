"""The small interface that every device offers, and what an app does on one: the router, then that entry.

A device is a :class:`Device`: a few numbers and two functions. Emulators and phones answer through the same
two functions as this machine, so :func:`recommend` and everything above it never asks what it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import UsageError, unknown_name
from canet_mobile.model.points import BALANCED
from canet_mobile.package.lengths import cut_to, entry_at, held, shortest
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.guard import (
    require_entry,
    require_history,
    require_length,
    require_point,
    require_runtime,
)

ROUTER = "router"
DEVICES = ("host", "arm64", "android", "ios")
WARM_UPS = 3

Sequences = NDArray[np.int32]


class RuntimeFailure(Refused):
    """The program does not load, or one of its methods fails or returns something else than promised."""

    def __init__(self, what: str, *, where: object | None = None, fix: str | None = None) -> None:
        super().__init__(Code.RUNTIME_FAILED, what, where=where, fix=fix)


@dataclass(frozen=True)
class Answer:
    """What one call of an entry returned.

    Args:
        outputs: the entry's outputs, in its order.
        nanoseconds: wall time of the call alone, measured on the device.
    """

    outputs: tuple[NDArray[Any], ...]
    nanoseconds: int


@dataclass(frozen=True)
class Device:
    """A package, loaded on a device.

    Args:
        name: ``host``.
        runtime: name and version of what runs the package there.
        threads: threads it runs on.
        program_ms: time to load the program, without any method.
        load: makes an entry ready; returns milliseconds (of the first time: it stays loaded).
        call: runs an entry on one history [L] int32 at an operating point, an index into POINTS; only the
            router looks at the point.
        index_dtype: of route ids and item ids, as the manifest says.
        lengths: positions that its entries compute, ascending; ``call`` takes the shortest that holds the
            history. Empty where only one length is known.
        exact: ``call`` at a length that is asked for: (entry, length, history [L], point).
    """

    name: str
    runtime: str
    threads: int
    program_ms: float
    load: Callable[[str], float]
    call: Callable[[str, Sequences, int], Answer]
    index_dtype: str = "int64"
    lengths: tuple[int, ...] = ()
    exact: Callable[[str, int, Sequences, int], Answer] | None = None


@dataclass(frozen=True)
class Recommendation:
    """Router, then that entry: what an app does for one user.

    Args:
        route: the route id.
        scores: [k] float32, descending.
        ids: [k] int64.
        router_ns, submodel_ns: wall time of the two calls.
    """

    route: int
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    router_ns: int
    submodel_ns: int


def require_built(device: str) -> None:
    """Refuse a device that is unknown or not built yet; no other one answers in its place.

    Raises:
        UsageError: always, but for the devices that can run a package.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if device != "host":
        raise UsageError(
            f"the device {device!r} is not built yet",
            fix="--device host runs the same package on this machine",
        )


def open_device(package: Package, device: str = "host", *, threads: int = 1) -> Device:
    """Load a package's program on a device; every call of it is checked before the runtime sees it.

    This is the one way to a runtime. The model file is hashed once more before anything of the runtime is
    imported: of ``.pte`` files with one flipped bit 4.6 % end the process, of ``.tflite`` files 13.4 %.

    Raises:
        UsageError: no such device, or it is not built yet.
        Refused: a model file is no longer what was verified, or the toolkit is missing or too old.
        RuntimeFailure: the program does not load.
    """
    require_built(device)
    require_runtime(package)
    package.require_unchanged_model()
    runtime = import_module(f"canet_mobile.replay.runtimes.{package.manifest.target}")
    opened: Device = runtime.open_device(package, threads)
    return _guarded(_fitted(opened, package.lengths), package)


def _fitted(device: Device, lengths: tuple[int, ...]) -> Device:
    """The device with an entry's name standing for it at every length: a call takes the shortest that holds
    the history [L], and loading one loads it at all of them."""
    longest = lengths[-1]

    def exact(entry: str, length: int, seq: Sequences, point: int) -> Answer:
        return device.call(entry_at(entry, length, longest), seq[len(seq) - length :], point)

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        return exact(entry, shortest(lengths, held(seq)), seq, point)

    def load(entry: str) -> float:
        return sum(device.load(entry_at(entry, length, longest)) for length in lengths)

    return replace(device, call=call, load=load, lengths=lengths, exact=exact)


def _guarded(device: Device, package: Package) -> Device:
    """The same device, which refuses what no runtime may be asked: some end the process over it."""
    whole = device.exact
    assert whole is not None

    def load(entry: str) -> float:
        require_entry(package, entry)
        return device.load(entry)

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        require_entry(package, entry)
        require_point(package, point)
        require_history(package, seq)
        return device.call(entry, seq, point)

    def exact(entry: str, length: int, seq: Sequences, point: int) -> Answer:
        require_entry(package, entry)
        require_point(package, point)
        require_length(package, length)
        require_history(package, seq)
        return whole(entry, length, seq, point)

    return replace(device, load=load, call=call, exact=exact)


def run_router(device: Device, seq: Sequences, point: int = BALANCED) -> tuple[int, int]:
    """The route id of one history [L] at an operating point, and the nanoseconds it took.

    Raises:
        CanetError: the history holds an id that is no item.
        RuntimeFailure: the router fails or does not return one integer of the promised type.
    """
    answer = device.call(ROUTER, seq, point)
    if [(o.shape, str(o.dtype)) for o in answer.outputs] != [((1,), device.index_dtype)]:
        raise _wrong_outputs(ROUTER, answer, f"route {device.index_dtype} [1]")
    return int(answer.outputs[0][0]), answer.nanoseconds


def run_entry(
    device: Device, entry: str, seq: Sequences, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Scores [k], ids [k] and nanoseconds of one submodel for one history [L].

    Raises:
        CanetError: the history holds an id that is no item.
        RuntimeFailure: the entry fails or does not return scores float32 [1, k] and ids [1, k] of the
            promised type.
    """
    answer = device.call(entry, seq, BALANCED)
    index = device.index_dtype
    if [(o.shape, str(o.dtype)) for o in answer.outputs] != [((1, k), "float32"), ((1, k), index)]:
        raise _wrong_outputs(entry, answer, f"scores float32 [1, {k}], ids {index} [1, {k}]")
    return answer.outputs[0][0], answer.outputs[1][0].astype(np.int64), answer.nanoseconds


def _wrong_outputs(entry: str, answer: Answer, expected: str) -> RuntimeFailure:
    found = ", ".join(f"{output.dtype} {list(output.shape)}" for output in answer.outputs)
    return RuntimeFailure(
        f"the method {entry!r} returned {found}, expected {expected}", fix="export the package again"
    )


def recommend(device: Device, package: Package, seq: Sequences, point: int = BALANCED) -> Recommendation:
    """Run the router at an operating point, then the entry it names, on one history [L] int32.

    Raises:
        CanetError: an id is no item, a call failed, or the router names a route that the package does not
            hold.
    """
    route, router_ns = run_router(device, seq, point)
    scores, ids, submodel_ns = run_entry(device, package.route(route).entry, seq, package.k)
    return Recommendation(route, scores, ids, router_ns, submodel_ns)


def warm_up(device: Device, entry: str, seq: Sequences) -> tuple[float, float]:
    """Load an entry and run it until it is warm.

    Returns:
        Milliseconds of loading, and of the first run.
    """
    load_ms = device.load(entry)
    first_ms = device.call(entry, seq, BALANCED).nanoseconds / 1e6
    for length in device.lengths or (len(seq),):
        newest = cut_to(np.maximum(seq, 1), length)
        for _ in range(WARM_UPS):
            device.call(entry, newest, BALANCED)
    return load_ms, first_ms
