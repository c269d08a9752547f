"""ExecuTorch packages on this machine: ExecuTorch's Python runtime."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from canet_mobile.errors import CanetError, unknown_name
from canet_mobile.machine import quiet
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences
from canet_mobile.replay.package import Package

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


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what the runtime's C++ prints while it looks at the processor."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def open_device(package: Package, threads: int) -> Device:
    """Load a package's program; its methods are loaded when they are first called, and stay loaded.

    The thread pool is the process's own: the last call's ``threads`` holds for every device opened before.

    Raises:
        CanetError: the toolkit is missing.
        RuntimeFailure: the program does not load, or lacks a method that the manifest names.
    """
    try:
        with quiet():
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

    with _quiet_stderr():
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
