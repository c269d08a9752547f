"""TFLite packages on this machine: LiteRT's interpreter, one per entry.

An interpreter prepares, and packs the weights of, every signature of the model it is given. The file has a
root per entry besides the ordinary one (``runtime["root.<entry>"]`` in the manifest), so each interpreter is
given the root of the entry it is for: a route that is not used costs nothing.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from canet_mobile.errors import unknown_name
from canet_mobile.machine import quiet, quiet_stderr
from canet_mobile.model.points import BALANCED, POINT_INPUT
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences

INPUT = "seq"
OUTPUTS = {True: ("route",), False: ("scores", "ids")}


def open_device(package: Package, threads: int) -> Device:
    """Make a package's model ready; an entry's interpreter is made when it is first called, and stays.

    Raises:
        Refused: the toolkit is missing.
        RuntimeFailure: the package does not say where an entry is, or the model is no TFLite file.
    """
    try:
        with quiet(), quiet_stderr():
            from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise Refused(
            Code.RUNTIME_MISSING,
            f"running a package on this machine needs LiteRT ({error})",
            fix="pip install 'canet-mobile[tflite]'",
        ) from error
    from importlib.metadata import version

    started = time.perf_counter_ns()
    entries = [ROUTER, *(route.entry for route in package.routes)]
    model = _RootedCopy(package, entries)
    program_ms = (time.perf_counter_ns() - started) / 1e6
    runners: dict[str, tuple[Callable[..., dict[str, Any]], float]] = {}

    def inputs(entry: str, seq: Sequences, point: int) -> dict[str, Any]:
        history = {INPUT: np.ascontiguousarray(seq, dtype=np.int32)[None]}
        return history | {POINT_INPUT: np.array([point], np.int32)} if entry == ROUTER else history

    def load(entry: str) -> float:
        if entry not in entries:
            raise unknown_name("entry", entry, entries, where=package.model_path)
        if entry not in runners:
            start = time.perf_counter_ns()
            with _runtime_errors(package, entry), quiet_stderr():
                path = model.rooted_at(entry)
                interpreter = Interpreter(model_path=str(path), num_threads=threads)
                runner = interpreter.get_signature_runner(entry)
                runner(**inputs(entry, np.zeros(package.length, np.int32), BALANCED))  # packs the weights
            runners[entry] = runner, (time.perf_counter_ns() - start) / 1e6
        return runners[entry][1]

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        load(entry)
        given = inputs(entry, seq, point)
        with _runtime_errors(package, entry):
            start = time.perf_counter_ns()
            found = runners[entry][0](**given)
            taken = time.perf_counter_ns() - start
            outputs = tuple(found[name] for name in OUTPUTS[entry == ROUTER])
        return Answer(outputs, taken)

    runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    return Device("host", runtime, threads, program_ms, load, call, package.index_dtype)


class _RootedCopy:
    """A copy of the model file, mapped by all interpreters, whose root is set before each of them opens it.

    The interpreter takes the root's address once, when it maps the file.
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
