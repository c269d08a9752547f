"""ExecuTorch packages on this machine: ExecuTorch's Python runtime."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from canet_mobile.errors import unknown_name
from canet_mobile.machine import quiet, quiet_stderr
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences

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


def open_device(package: Package, threads: int) -> Device:
    """Load a package's program; its methods are loaded when they are first called, and stay loaded.

    The thread pool is the process's own: the last call's ``threads`` holds for every device opened before.

    Raises:
        Refused: the toolkit is missing.
        RuntimeFailure: the program does not load, or lacks a method that the manifest names.
    """
    try:
        with quiet():
            import executorch.extension.pybindings.portable_lib as portable
            import executorch.kernels.quantized  # noqa: F401  registers the int8 embedding of int8 packages
            import torch
            from executorch.runtime import Runtime
    except ImportError as error:
        raise Refused(
            Code.RUNTIME_MISSING,
            f"running a package on this machine needs ExecuTorch ({error})",
            fix="pip install 'canet-mobile[executorch]'",
        ) from error
    from importlib.metadata import version

    with quiet_stderr():
        portable._unsafe_reset_threadpool(threads)
    with _runtime_errors(package, None), _all_parts(package) as data:
        started = time.perf_counter_ns()
        program = Runtime.get().load_program(package.model_path, data_path=data)
    program_ms = (time.perf_counter_ns() - started) / 1e6
    held = program.method_names
    missing = set(package.entries) - held
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
            _require_parts(package, entry)
            start = time.perf_counter_ns()
            with _runtime_errors(package, entry):
                program.load_method(entry)
            loaded[entry] = (time.perf_counter_ns() - start) / 1e6
        return loaded[entry]

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        load(entry)
        method = program.load_method(entry)
        inputs = [torch.from_numpy(np.ascontiguousarray(seq, dtype=np.int32)[None])]
        if entry.startswith(ROUTER):
            inputs.append(torch.tensor([point], dtype=torch.int32))
        with _runtime_errors(package, entry):
            start = time.perf_counter_ns()
            outputs = method.execute(inputs)
            taken = time.perf_counter_ns() - start
        return Answer(tuple(output.numpy() for output in outputs), taken)

    return Device("host", f"executorch {version('executorch')}", threads, program_ms, load, call)


def _require_parts(package: Package, entry: str) -> None:
    for part in package.manifest.parts:
        if entry in part.entries and not (package.directory / part.name).is_file():
            raise RuntimeFailure(
                f"the method {entry!r} needs the part {part.name!r}, which is not here",
                where=package.source,
                fix=f"put {part.name} beside {package.manifest.model_file}",
            )


@contextmanager
def _all_parts(package: Package) -> Iterator[Path | None]:
    """The parts that are here as one temporary file, because Python's runtime takes only one.

    C++ and Java take a list of them; nothing is merged on a phone.
    """
    files = [package.directory / part.name for part in package.manifest.parts]
    files = [file for file in files if file.is_file()]
    if not files:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="canet-")
    try:
        merged = Path(folder) / "parts.ptd"
        _merge(files, merged)
        yield merged
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _merge(files: list[Path], target: Path) -> None:
    """Write the named data of several FlatTensor files as one.

    Raises:
        RuntimeError: a file is none, or two hold one name.
    """
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import Cord, FlatTensorSerializer

    serializer = FlatTensorSerializer()
    buffers: list[bytes] = []
    named: dict[str, DataEntry] = {}
    for file in files:
        part = serializer.deserialize(Cord(file.read_bytes()))
        if both := named.keys() & part.named_data.keys():
            raise RuntimeError(f"{file.name} and another part both hold {min(both)}")
        for name, entry in part.named_data.items():
            named[name] = DataEntry(entry.buffer_index + len(buffers), entry.alignment, entry.tensor_layout)
        buffers += part.buffers
    with target.open("wb") as out:
        serializer.serialize(DataPayload(buffers, named)).write_to_file(out)


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
