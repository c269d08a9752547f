"""Core ML packages on this machine: Core ML itself on macOS, elsewhere the reference interpreter.

The interpreter runs the written file in NumPy, every fp16 result rounded to fp16. It is no Core ML: its
times say nothing about a phone, and Core ML may round otherwise inside an operation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import unknown_name
from canet_mobile.machine import quiet
from canet_mobile.model.points import POINT_INPUT
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences

MAIN = "main"  # the function of a package that holds only one
AGAIN = "export the package again"
Inputs = dict[str, NDArray[np.int32]]
Function = Callable[[Inputs], dict[str, NDArray[Any]]]


def open_device(package: Package, threads: int) -> Device:
    """Load a package; entries are loaded when they are first called, and stay loaded.

    Raises:
        Refused: coremltools is not installed.
        RuntimeFailure: the package does not load, or lacks an entry that the manifest names.
    """
    where = entry_files(package)
    made = _core_ml(where) if sys.platform == "darwin" else _interpreter(package, where, threads)
    loader, runtime, program_ms = made
    loaded: dict[str, tuple[Function, float]] = {}

    def load(entry: str) -> float:
        if entry not in where:
            raise unknown_name("entry", entry, where, where=package.model_path)
        if entry not in loaded:
            start = time.perf_counter_ns()
            with _failures(package, entry):
                function = loader(entry)
            loaded[entry] = function, (time.perf_counter_ns() - start) / 1e6
        return loaded[entry][1]

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        load(entry)
        function = loaded[entry][0]
        given = {"seq": np.ascontiguousarray(seq, dtype=np.int32)[None]}
        if entry == ROUTER:
            given[POINT_INPUT] = np.array([point], np.int32)
        with _failures(package, entry):
            start = time.perf_counter_ns()
            found = function(given)
            taken = time.perf_counter_ns() - start
        names = ["route"] if entry == ROUTER else ["scores", "ids"]
        if missing := [name for name in names if name not in found]:
            raise RuntimeFailure(
                f"{entry} does not return {missing[0]!r}", where=package.model_path, fix=AGAIN
            )
        return Answer(tuple(found[name] for name in names), taken)

    return Device("host", runtime, threads, program_ms, load, call, package.index_dtype)


def entry_files(package: Package) -> dict[str, tuple[Path, str]]:
    """Where each entry is: its .mlpackage, and the function in it."""
    entries = [ROUTER, *(route.entry for route in package.routes)]
    interface = package.manifest.interface
    if interface.style != "files":
        return {entry: (package.model_path, entry) for entry in entries}
    files = interface.files
    if missing := [entry for entry in entries if entry not in files]:
        raise RuntimeFailure(f"names no file for the entry {missing[0]!r}", where=package.source, fix=AGAIN)
    return {entry: (package.directory / files[entry], MAIN) for entry in entries}


def _interpreter(
    package: Package, where: dict[str, tuple[Path, str]], threads: int
) -> tuple[Callable[[str], Function], str, float]:
    """The reference interpreter of :mod:`canet_mobile.replay.mil`."""
    from canet_mobile.replay.mil.interpreter import Loader
    from canet_mobile.replay.mil.model import open_mlpackage, protobuf

    protobuf()  # importing coremltools takes seconds, which are not the package's
    start = time.perf_counter_ns()
    loaders: dict[Path, Loader] = {}
    for entry, (path, function) in where.items():
        with _failures(package, None):
            if path not in loaders:
                loaders[path] = Loader(open_mlpackage(path))
            if function not in loaders[path].model.functions:
                raise RuntimeFailure(
                    f"does not hold the function {function!r} of the entry {entry!r}", where=path, fix=AGAIN
                )
    program_ms = (time.perf_counter_ns() - start) / 1e6
    blas = _blas()

    def load(entry: str) -> Function:
        path, function = where[entry]
        program = loaders[path].load(function)

        def run(given: Inputs) -> dict[str, NDArray[Any]]:
            with blas.limit(limits=threads):
                return program(**given)

        return run

    return (
        load,
        f"reference interpreter of the .mlpackage in NumPy {np.__version__}, not Core ML",
        program_ms,
    )


def _blas() -> Any:
    """The thread pool of NumPy's BLAS, which NumPy itself has no way to set."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError as error:
        raise Refused(
            Code.RUNTIME_MISSING,
            f"running a .mlpackage where there is no Core ML needs threadpoolctl ({error})",
            fix="pip install 'canet-mobile[coreml]'",
        ) from error
    return ThreadpoolController().select(user_api="blas")


def _core_ml(where: dict[str, tuple[Path, str]]) -> tuple[Callable[[str], Function], str, float]:
    """Core ML through coremltools; only on macOS, and never run where canet-mobile is developed."""
    import platform

    try:
        with quiet():
            import coremltools
    except ImportError as error:
        raise Refused(
            Code.RUNTIME_MISSING,
            f"running a package on this machine needs coremltools ({error})",
            fix="pip install 'canet-mobile[coreml]'",
        ) from error

    def load(entry: str) -> Function:
        path, function = where[entry]
        with quiet():
            model = coremltools.models.MLModel(
                str(path),
                compute_units=coremltools.ComputeUnit.ALL,
                function_name=None if function == MAIN else function,
            )

        def run(given: Inputs) -> dict[str, NDArray[Any]]:
            found = model.predict(given)
            return {
                name: value.astype(np.float32 if name == "scores" else np.int32)
                for name, value in found.items()
            }

        return run

    return load, f"Core ML of macOS {platform.mac_ver()[0]}, coremltools {_version('coremltools')}", 0.0


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "of unknown version"


@contextmanager
def _failures(package: Package, entry: str | None) -> Iterator[None]:
    """Turn what goes wrong into errors that name the file and the entry."""
    from canet_mobile.replay.mil.model import MilError

    try:
        yield
    except MilError as error:
        what = error.what if entry is None else f"the entry {entry!r} failed: {error.what}"
        raise RuntimeFailure(what, where=error.where or package.model_path, fix=AGAIN) from error
    except (RuntimeError, ValueError, TypeError) as error:
        what = "the package does not load" if entry is None else f"the entry {entry!r} failed"
        raise RuntimeFailure(f"{what}: {error}", where=package.model_path, fix=AGAIN) from error
