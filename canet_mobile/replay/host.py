"""Running a package: the small interface that every device offers, and this machine as the first of them.

A device is a :class:`Device`: a few numbers and two functions. Emulators and phones answer through the same
two functions, so :func:`recommend` and everything above it never asks what it runs on.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import CanetError, UsageError, unknown_name
from canet_mobile.replay.package import Package

ROUTER = "router"
DEVICES = ("host", "arm64", "android", "ios")
WARM_UPS = 3
# executorch/runtime/core/error.h
ERRORS = {
    0x01: "Internal",
    0x02: "InvalidState",
    0x03: "EndOfMethod",
    0x10: "NotSupported",
    0x11: "NotImplemented",
    0x12: "InvalidArgument",
    0x13: "InvalidType",
    0x14: "OperatorMissing",
    0x20: "NotFound",
    0x21: "MemoryAllocationFailed",
    0x22: "AccessFailed",
    0x23: "InvalidProgram",
    0x24: "InvalidExternalData",
    0x25: "OutOfResources",
    0x30: "DelegateInvalidCompatibility",
    0x31: "DelegateMemoryAllocationFailed",
    0x32: "DelegateInvalidHandle",
}

Sequences = NDArray[np.int32]


class RuntimeFailure(CanetError):
    """The program does not load, or one of its methods fails or returns something else than promised."""


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
        call: runs an entry on one history [L] int32.
    """

    name: str
    runtime: str
    threads: int
    program_ms: float
    load: Callable[[str], float]
    call: Callable[[str, Sequences], Answer]


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
    """Load a package's program on a device.

    Raises:
        UsageError: no such device, or it is not built yet.
        CanetError: the package is not for this device, or its toolkit is missing.
        RuntimeFailure: the program does not load.
    """
    require_built(device)
    if package.manifest["target"] != "executorch":
        raise CanetError(
            f"is a package for {package.manifest['target']}, the host runs executorch packages",
            where=package.source,
            fix="canet-mobile export --target executorch",
        )
    return _open_executorch(package, threads)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Hide what the toolkit logs at import about accelerators that are not here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _open_executorch(package: Package, threads: int) -> Device:
    try:
        with _quiet_import():
            import executorch.extension.pybindings.portable_lib as portable
            import executorch.kernels.quantized  # noqa: F401  registers the int8 embedding of int8 packages
            import torch
            from executorch.runtime import Runtime
    except ImportError as error:
        raise CanetError(
            f"running a package on this machine needs ExecuTorch ({error})",
            fix="pip install 'canet-mobile[executorch]'",
        ) from error
    from importlib.metadata import version

    portable._unsafe_reset_threadpool(threads)
    started = time.perf_counter_ns()
    with _runtime_errors(package, None):
        program = Runtime.get().load_program(package.model_path)
    program_ms = (time.perf_counter_ns() - started) / 1e6
    held = program.method_names
    missing = {ROUTER, *(route.entry for route in package.routes)} - held
    if missing:
        raise RuntimeFailure(
            f"does not hold the method(s) {', '.join(sorted(missing))} that the manifest names",
            where=package.model_path,
            fix="export the package again",
        )
    loaded: dict[str, float] = {}

    def load(entry: str) -> float:
        if entry not in held:
            raise unknown_name("entry", entry, held, where=package.model_path)
        if entry not in loaded:
            start = time.perf_counter_ns()
            with _runtime_errors(package, entry):
                program.load_method(entry)
            loaded[entry] = (time.perf_counter_ns() - start) / 1e6
        return loaded[entry]

    def call(entry: str, seq: Sequences) -> Answer:
        load(entry)
        method = program.load_method(entry)
        inputs = [torch.from_numpy(np.ascontiguousarray(seq, dtype=np.int32)[None])]
        with _runtime_errors(package, entry):
            start = time.perf_counter_ns()
            outputs = method.execute(inputs)
            taken = time.perf_counter_ns() - start
        return Answer(tuple(output.numpy() for output in outputs), taken)

    return Device("host", f"executorch {version('executorch')}", threads, program_ms, load, call)


@contextmanager
def _runtime_errors(package: Package, entry: str | None) -> Iterator[None]:
    """Turn the runtime's errors into ones that name the method and the error code."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        found = re.search(r"0x:?([0-9a-fA-F]+)|status (\d+)", str(error))
        code = None
        if found:
            code = int(found[1], 16) if found[1] else int(found[2])
        name = "" if code is None else f" with error 0x{code:02x} ({ERRORS.get(code, 'unknown')})"
        what = "the program does not load" if entry is None else f"the method {entry!r} failed"
        raise RuntimeFailure(
            f"{what}{name}: {error}",
            where=package.model_path,
            fix="export the package again with this version of executorch",
        ) from error


def run_router(device: Device, seq: Sequences) -> tuple[int, int]:
    """The route id of one history [L], and the nanoseconds it took.

    Raises:
        RuntimeFailure: the router fails or does not return one int64.
    """
    answer = device.call(ROUTER, seq)
    if [(o.shape, str(o.dtype)) for o in answer.outputs] != [((1,), "int64")]:
        raise _wrong_outputs(ROUTER, answer, "route int64 [1]")
    return int(answer.outputs[0][0]), answer.nanoseconds


def run_entry(
    device: Device, entry: str, seq: Sequences, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Scores [k], ids [k] and nanoseconds of one submodel for one history [L].

    Raises:
        RuntimeFailure: the entry fails or does not return scores float32 [1, k] and ids int64 [1, k].
    """
    answer = device.call(entry, seq)
    if [(o.shape, str(o.dtype)) for o in answer.outputs] != [((1, k), "float32"), ((1, k), "int64")]:
        raise _wrong_outputs(entry, answer, f"scores float32 [1, {k}], ids int64 [1, {k}]")
    return answer.outputs[0][0], answer.outputs[1][0], answer.nanoseconds


def _wrong_outputs(entry: str, answer: Answer, expected: str) -> RuntimeFailure:
    found = ", ".join(f"{output.dtype} {list(output.shape)}" for output in answer.outputs)
    return RuntimeFailure(
        f"the method {entry!r} returned {found}, expected {expected}", fix="export the package again"
    )


def recommend(device: Device, package: Package, seq: Sequences) -> Recommendation:
    """Run the router, then the entry it names, on one history [L] int32.

    Raises:
        CanetError: a call failed, or the router names a route that the package does not hold.
    """
    route, router_ns = run_router(device, seq)
    scores, ids, submodel_ns = run_entry(device, package.route(route).entry, seq, package.k)
    return Recommendation(route, scores, ids, router_ns, submodel_ns)


def warm_up(device: Device, entry: str, seq: Sequences) -> tuple[float, float]:
    """Load an entry and run it until it is warm.

    Returns:
        Milliseconds of loading, and of the first run.
    """
    load_ms = device.load(entry)
    first_ms = device.call(entry, seq).nanoseconds / 1e6
    for _ in range(WARM_UPS):
        device.call(entry, seq)
    return load_ms, first_ms
