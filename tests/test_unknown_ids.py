"""Ids that are no items: refused before the runtime sees them; an app that does not ask loses no process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from replay_toys import ITEMS, LENGTH, exported_to, toy_canet, toy_dataset, toy_run

from canet_mobile.errors import CanetError
from canet_mobile.package.package import open_package
from canet_mobile.replay.device import ROUTER, open_device, recommend

UNKNOWN = (-1, ITEMS + 1, 2**31 - 1, -(2**31))
MODULES = {
    "executorch": "executorch", "tflite": "litert_torch", "onnx": "onnxruntime", "coreml": "coremltools"
}  # fmt: skip
# Where the graph takes such an id for padding. In Core ML it does not (what a look-up outside the table does
# is undefined there, and its cost cannot be measured off a Mac): an app's check is all there is.
GUARDED = ("executorch", "tflite")
CASES = [(target, preset) for target in MODULES for preset in ("int8", "fp32")]

# Without the loader's check: every entry is asked of the runtime itself.
CHILD = """
import sys
import numpy as np
from importlib import import_module
from pathlib import Path
from canet_mobile.errors import CanetError
from canet_mobile.package.package import open_package

package = open_package(Path(sys.argv[1]))
device = import_module("canet_mobile.replay.runtimes." + package.manifest.target).open_device(package, 1)
for value in map(int, sys.argv[2:]):
    seq = np.zeros(package.length, np.int32)
    seq[-3:] = 5, value, 7
    clean = np.where(seq == value, 0, seq).astype(np.int32)
    for entry in ("router", package.routes[0].entry, package.routes[-1].entry):
        try:
            found = device.call(entry, seq, 1).outputs
        except CanetError:
            print(entry, value, "error", flush=True)
        else:
            as_padding = all(map(np.array_equal, found, device.call(entry, clean, 1).outputs))
            print(entry, value, "padding" if as_padding else "another", flush=True)
    assert len(device.call(package.routes[0].entry, clean, 1).outputs) == 2  # usable afterwards
"""


@dataclass(frozen=True)
class Case:
    target: str
    package: Path


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    target, preset = request.param
    pytest.importorskip(MODULES[target])
    root = tmp_path_factory.mktemp(f"{target}-{preset}")
    run = toy_run(root / "run", toy_dataset(root / "dataset"), toy_canet()).directory
    options = ("--quantize", preset, "--routes", "e8_h8_d1,e16_h16_d2", "--users", 5)
    return Case(target, exported_to(target, run, root / "package", *options))


def test_the_loader_refuses_them_by_value_and_position(case: Case) -> None:
    package = open_package(case.package)
    device = open_device(package)
    for value in UNKNOWN:
        seq = np.zeros(LENGTH, np.int32)
        seq[-3:] = 5, value, 7
        said = rf"the id {value} at position {LENGTH - 2} of 0..{LENGTH - 1}; the items are 1..{ITEMS}"
        for ask in (
            lambda seq=seq: recommend(device, package, seq),
            lambda seq=seq: device.call(ROUTER, seq, 1),
            lambda seq=seq: device.call(package.routes[0].entry, seq, 1),
        ):
            with pytest.raises(CanetError, match=said):
                ask()
    seq = np.arange(ITEMS - LENGTH + 1, ITEMS + 1, dtype=np.int32)  # the last item is one
    assert recommend(device, package, seq).ids.min() >= 1


def test_no_process_ends_by_them(case: Case) -> None:
    """Asked of the runtime itself. Where the graph guards, the answer is that of padding."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(case.package), *map(str, UNKNOWN)],
        capture_output=True, text=True, check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    found = {line.split()[2] for line in done.stdout.splitlines()}
    assert len(done.stdout.splitlines()) == 3 * len(UNKNOWN)
    if case.target in GUARDED:
        assert found == {"padding"}
    else:
        print(case.target, found)
