"""What the ways to open a TFLite package cost: resident memory and CPU time of router and smallest route.

    OMP_NUM_THREADS=1 python benchmarks/tflite_memory.py packages/retail-tflite-int8

Each way is a process of its own, with the runtime imported before memory is read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from canet_mobile.files import write_json
from canet_mobile.machine import describe_machine, quiet_stderr, resident_bytes
from canet_mobile.model.points import BALANCED, POINT_INPUT
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import ROUTER

RESULTS = Path(__file__).parent / "results" / "tflite_memory.json"


def inputs_of(entry: str, seq: np.ndarray) -> dict[str, np.ndarray]:
    """What an entry is given: a history [1, L], and the router its operating point besides."""
    return {"seq": seq} | ({POINT_INPUT: np.array([BALANCED], np.int32)} if entry == ROUTER else {})


def ordinary_root(package: Package, entries: list[str], seq: np.ndarray, _: Path) -> Any:
    """One interpreter over the ordinary root: every signature is prepared."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(package.model_path), num_threads=1)
    for entry in entries:
        interpreter.get_signature_runner(entry)(**inputs_of(entry, seq))
    return interpreter


def entry_roots(package: Package, entries: list[str], seq: np.ndarray, _: Path) -> Any:
    """What replay does: an interpreter per entry."""
    from canet_mobile.replay.device import open_device

    device = open_device(package)
    for entry in entries:
        device.call(entry, seq[0], BALANCED)
    return device


def compiled(package: Package, entries: list[str], seq: np.ndarray, cache: Path | None) -> Any:
    """CompiledModel, with a weight-cache file when one is named."""
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

    cpu = CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(cache or ""))
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    model = CompiledModel.from_file(str(package.model_path), options=options)
    held = []
    for entry in entries:
        index = model.get_signature_index(entry)
        inputs, outputs = model.create_input_buffers(index), model.create_output_buffers(index)
        for buffer, data in zip(inputs, inputs_of(entry, seq).values(), strict=True):
            buffer.write(data.ravel())
        model.run_by_index(index, inputs, outputs)
        held += [inputs, outputs]
    return model, held


WAYS: dict[str, Callable[..., Any]] = {
    "Interpreter, ordinary root": ordinary_root,
    "CompiledModel": lambda package, entries, seq, _: compiled(package, entries, seq, None),
    "CompiledModel, weight-cache file": compiled,
    "Interpreter per entry, at the entry's root": entry_roots,
}


def measure(way: str, folder: Path) -> dict[str, float]:
    """Resident bytes and CPU milliseconds until router and smallest route have run once."""
    import ai_edge_litert.compiled_model  # noqa: F401
    import ai_edge_litert.interpreter  # noqa: F401

    package = open_package(folder)
    seq = np.zeros((1, package.length), np.int32)
    seq[0, -1] = 1
    with tempfile.TemporaryDirectory() as scratch, quiet_stderr():
        before, start = resident_bytes() or 0, time.process_time()
        kept = WAYS[way](package, [ROUTER, package.routes[0].entry], seq, Path(scratch) / "cache.bin")
        taken, after = time.process_time() - start, resident_bytes() or 0
        del kept
    return {"resident_bytes": after - before, "cpu_ms": round(1e3 * taken, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PACKAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    rows = []
    for folder in options.packages:
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"package": folder.name, "way": way, **found})
            print(f"{folder.name}  {way}: {found['resident_bytes'] / 1e6:.0f} MB, {found['cpu_ms']:.0f} ms")
    if rows:
        write_json(options.out, {"benchmark": "tflite_memory", "machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
