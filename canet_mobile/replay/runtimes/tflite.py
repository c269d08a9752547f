"""TFLite packages on this machine: LiteRT's CompiledModel, one per entry, or its Interpreter.

Either prepares, and packs the weights of, every signature of the model it is given. The file has a root per
entry besides the ordinary one (``runtime["root.<entry>"]`` in the manifest), so each is given the root of the
entry it is for: a route that is not used costs nothing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import unknown_name
from canet_mobile.machine import quiet, quiet_stderr
from canet_mobile.model.points import BALANCED, POINT_INPUT
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences

INPUT = "seq"
OUTPUTS = {True: ("route",), False: ("scores", "ids")}
Run = Callable[[dict[str, NDArray[np.int32]]], tuple[tuple[NDArray[Any], ...], int]]


def open_device(package: Package, threads: int, api: str | None = None) -> Device:
    """Make a package's model ready; an entry is prepared when it is first called, and stays.

    Args:
        package: an opened package.
        threads: of the runtime.
        api: ``CompiledModel``, which an app uses too, or ``Interpreter``; None: the first that is here.

    Raises:
        Refused: the toolkit is missing.
        RuntimeFailure: the package does not say where an entry is, or the model is no TFLite file.
    """
    name, prepare = _api(api)
    from importlib.metadata import version

    started = time.perf_counter_ns()
    entries = [ROUTER, *(route.entry for route in package.routes)]
    model = _RootedCopy(package, entries)
    program_ms = (time.perf_counter_ns() - started) / 1e6
    runs: dict[str, tuple[Run, float]] = {}

    def inputs(entry: str, seq: Sequences, point: int) -> dict[str, NDArray[np.int32]]:
        history = {INPUT: np.ascontiguousarray(seq, dtype=np.int32)[None]}
        return history | {POINT_INPUT: np.array([point], np.int32)} if entry == ROUTER else history

    def load(entry: str) -> float:
        if entry not in entries:
            raise unknown_name("entry", entry, entries, where=package.model_path)
        if entry not in runs:
            start = time.perf_counter_ns()
            with _runtime_errors(package, entry), quiet_stderr():
                run = prepare(model.rooted_at(entry), entry, threads)
                run(inputs(entry, np.zeros(package.length, np.int32), BALANCED))  # packs the weights
            runs[entry] = run, (time.perf_counter_ns() - start) / 1e6
        return runs[entry][1]

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        load(entry)
        # CompiledModel tells of every call of an entry that returns a constant.
        is_constant = entry == ROUTER and not package.has_router
        with _runtime_errors(package, entry), quiet_stderr() if is_constant else nullcontext():
            return Answer(*runs[entry][0](inputs(entry, seq, point)))

    runtime = f"ai-edge-litert {version('ai-edge-litert')}, {name}"
    return Device("host", runtime, threads, program_ms, load, call, package.index_dtype)


def _api(wanted: str | None) -> tuple[str, Callable[[Path, str, int], Run]]:
    """The way to run a model that is asked for, or the first that this version of LiteRT has."""
    known = {"CompiledModel": _compiled, "Interpreter": _interpreter}
    modules = {"CompiledModel": "compiled_model", "Interpreter": "interpreter"}
    for name in known if wanted is None else (wanted,):
        try:
            with quiet(), quiet_stderr():
                import_module(f"ai_edge_litert.{modules[name]}")
        except ImportError as error:
            missing = error
        else:
            return name, known[name]
    raise Refused(
        Code.RUNTIME_MISSING,
        f"running a package on this machine needs LiteRT ({missing})",
        fix="pip install 'canet-mobile[tflite]'",
    ) from missing


def _compiled(path: Path, entry: str, threads: int) -> Run:
    """By CompiledModel: buffers are made once; writing and reading them is no part of the time."""
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

    options = Options(
        hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads)
    )
    model = CompiledModel.from_file(str(path), environment=_environment(), options=options)
    index = model.get_signature_index(entry)
    if index < 0:
        raise KeyError(entry)
    details = model.get_output_tensor_details(entry)
    given = {
        name: model.create_input_buffer_by_name(entry, name) for name in model.get_input_tensor_details(entry)
    }
    found = {name: model.create_output_buffer_by_name(entry, name) for name in OUTPUTS[entry == ROUTER]}
    shapes = {name: (tuple(details[name]["shape"]), np.dtype(details[name]["dtype"])) for name in found}

    def run(inputs: dict[str, NDArray[np.int32]]) -> tuple[tuple[NDArray[Any], ...], int]:
        for name, value in inputs.items():
            given[name].write(value)
        start = time.perf_counter_ns()
        model.run_by_name(entry, given, found)
        taken = time.perf_counter_ns() - start
        return tuple(
            found[name].read(int(np.prod(shape)), dtype).reshape(shape)
            for name, (shape, dtype) in shapes.items()
        ), taken

    return run


@cache
def _environment() -> Any:
    """What all CompiledModels of this process share."""
    from ai_edge_litert.environment import Environment, EnvironmentOptions

    atexit.register(_end_quietly)
    return Environment.create(options=EnvironmentOptions())


def _end_quietly() -> None:
    """LiteRT tells on stderr what it takes down when the process ends, after everything of Python's."""
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _interpreter(path: Path, entry: str, threads: int) -> Run:
    """By the Interpreter, whose call copies inputs and outputs itself."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner(entry)

    def run(inputs: dict[str, NDArray[np.int32]]) -> tuple[tuple[NDArray[Any], ...], int]:
        start = time.perf_counter_ns()
        found = runner(**inputs)
        taken = time.perf_counter_ns() - start
        return tuple(found[name] for name in OUTPUTS[entry == ROUTER]), taken

    return run


class _RootedCopy:
    """A copy of the model file, mapped by all entries, whose root is set before each of them opens it.

    The runtime takes the root's address once, when it maps the file.
    """

    def __init__(self, package: Package, entries: list[str]) -> None:
        roots = {entry: package.manifest.runtime.get(f"root.{entry}") for entry in entries}
        size = package.model_path.stat().st_size
        bad = [entry for entry, root in roots.items() if not isinstance(root, int) or not 8 <= root < size]
        if bad:
            raise RuntimeFailure(
                f"the manifest does not say where in the model {bad[0]!r} is (runtime: root.{bad[0]})",
                where=package.model_path,
                fix="export the package again",
            )
        self._roots = roots
        folder = Path(tempfile.mkdtemp(prefix="canet-tflite-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = folder / package.model_path.name
        shutil.copyfile(package.model_path, self._path)

    def rooted_at(self, entry: str) -> Path:
        with self._path.open("r+b") as file:
            file.write(struct.pack("<I", self._roots[entry]))
        return self._path


@contextmanager
def _runtime_errors(package: Package, entry: str) -> Iterator[None]:
    """Turn the runtime's errors into ones that name the file and the entry."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise RuntimeFailure(
            f"the signature {entry!r} failed: {error}",
            where=package.model_path,
            fix="export the package again with this version of ai-edge-litert",
        ) from error
