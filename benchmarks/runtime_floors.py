"""Which released runtimes answer a package right: its golden rows through each, in an environment of its own.

    python benchmarks/runtime_floors.py packages/tflite-int8 packages/tflite-fp32 packages/onnx-int8 ...
    python benchmarks/targets_table.py            # docs/targets/README.md from the record

A runtime that is too old need not refuse a package: some compute something else without a word. Each release
is installed from PyPI into an environment under --work, loads the model file as an app does and answers the
golden rows, which are judged as `canet-mobile parity` judges them. Environments are removed (--keep
keeps them). ExecuTorch is installed without its dependencies and takes PyTorch from the environment that runs
this script.

The record, benchmarks/results/runtime_floors.json, keeps what other releases said before.
`canet_export/floors.py` states the floors, and a test holds it to the record.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from canet_export.checks import LIMITS, check_golden
from canet_mobile.errors import CanetError
from canet_mobile.files import write_json
from canet_mobile.machine import describe_machine
from canet_mobile.model.points import POINT_INPUT
from canet_mobile.package.lists import Check
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure
from canet_mobile.telemetry import switch_off

RESULTS = Path(__file__).parent / "results" / "runtime_floors.json"
CHILD = Path(__file__).parent / "_floor_child.py"
ROUTER_ALONE = -2  # force_route of an ONNX package


@dataclass(frozen=True)
class Release:
    """A released runtime.

    Args:
        distribution, version: on PyPI.
        api: what of it runs the model; of _floor_child.APIS.
        besides: requirements that its own do not state.
        borrows: it sees the packages of the environment that runs this script, and brings none itself.
    """

    distribution: str
    version: str
    api: str
    besides: tuple[str, ...] = ()
    borrows: bool = False


OLD_NUMPY = ("numpy<2",)  # built against it
RELEASES = {
    "tflite": (
        Release("tflite-runtime", "2.14.0", "Interpreter", OLD_NUMPY),
        Release("tensorflow-cpu", "2.17.1", "Interpreter"),
        Release("ai-edge-litert", "1.0.1", "Interpreter", OLD_NUMPY),
        Release("ai-edge-litert", "1.1.2", "Interpreter", OLD_NUMPY),
        Release("ai-edge-litert", "1.2.0", "Interpreter"),
        Release("ai-edge-litert", "1.4.0", "Interpreter"),
        Release("ai-edge-litert", "2.0.2", "Interpreter"),
        Release("ai-edge-litert", "2.0.2", "CompiledModel"),
        Release("ai-edge-litert", "2.2.0", "Interpreter"),
        Release("ai-edge-litert", "2.2.0", "CompiledModel"),
        Release("ai-edge-litert", "2.3.0", "Interpreter"),
        Release("ai-edge-litert", "2.3.0", "CompiledModel"),
    ),
    "onnx": tuple(
        Release("onnxruntime", number, "InferenceSession", OLD_NUMPY if number < "1.19" else ())
        for number in ("1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.22.1", "1.24.4", "1.28.0", "1.32.0")
    ),
    "executorch": tuple(
        Release("executorch", number, "Program", borrows=True)
        for number in ("1.0.1", "1.2.0", "1.3.1", "1.4.1", "1.5.0", "1.5.1")
    ),
}


def environment(release: Release, folder: Path) -> Path:
    """Install a release into an environment of its own; its Python.

    Raises:
        CanetError: pip does not install it.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if python.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    if release.borrows:
        paths = {"base": str(folder), "platbase": str(folder)}
        places = Path(sysconfig.get_path("purelib", "venv", paths))
        here = [path for path in sys.path if path.endswith("site-packages")]
        (places / "borrowed.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    command += ["-q", *(["--no-deps", "--ignore-installed"] if release.borrows else [])]
    command += [f"{release.distribution}=={release.version}", *release.besides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr.strip()
        ]
        raise CanetError(f"pip does not install {release.distribution} {release.version}: {said[0]}")
    return python


class Child:
    """A package in a process of another environment; answers as a :class:`Device` does.

    Raises:
        RuntimeFailure: the model does not load there.
    """

    def __init__(self, python: Path, release: Release, package: Package) -> None:
        self.package = package
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(python), "-P", str(CHILD), release.api, str(package.model_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8",
        )  # fmt: skip
        self._read("the model does not load")

    def call(self, entry: str, seq: Any, point: int) -> Answer:
        interface, manifest = self.package.manifest["interface"], self.package.manifest
        inputs: dict[str, Any] = {"seq": [seq.tolist()]}
        if entry == ROUTER or "route_input" in interface:
            inputs[POINT_INPUT] = [point]
        if "route_input" in interface:
            ids = {route.entry: route.id for route in self.package.routes} | {ROUTER: ROUTER_ALONE}
            inputs[interface["route_input"]] = [ids[entry]]
        names = ["route"] if entry == ROUTER else ["scores", "ids"]
        try:
            self.process.stdin.write(json.dumps({"entry": entry, "inputs": inputs, "names": names}) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # what ended it is read below
        found = self._read("the call failed")["outputs"]
        k, index = manifest["k"], self.package.index_dtype
        types = {"route": ((1,), index), "scores": ((1, k), "float32"), "ids": ((1, k), index)}
        return Answer(
            tuple(np.array(found[name], types[name][1]).reshape(types[name][0]) for name in names), 0
        )

    def _read(self, doing: str) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or [""]
            ended = f"the process ended by {signal.Signals(-code).name}" if code < 0 else said[-1]
            raise RuntimeFailure(f"{doing}: {ended}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeFailure(f"{doing}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.errors.close()


def answered(python: Path, release: Release, package: Package) -> dict[str, Any]:
    """What a release makes of the golden rows of a package."""
    rows = len(package.golden)
    try:
        child = Child(python, release, package)
    except RuntimeFailure as error:
        return {"rows": rows, "rows_right": 0, "router_right": 0, "lists_right": 0, "error": error.what}
    try:
        device = Device("host", release.distribution, 1, 0.0, lambda _: 0.0, child.call, package.index_dtype)
        return judged(check_golden(device, package, LIMITS[package.quantization]), rows)
    finally:
        child.close()


def judged(check: Check, rows: int) -> dict[str, Any]:
    """Rows right in all, in the router at every point, and in the list; the first error of a call."""
    failed = {failure.case for failure in check.failures if failure.tensor == "call"}
    router = failed | {f.case for f in check.failures if f.entry == ROUTER}
    lists = failed | {f.case for f in check.failures if f.entry != ROUTER}
    said = next((failure.found for failure in check.failures if failure.tensor == "call"), None)
    return {
        "rows": rows,
        "rows_right": rows - len(router | lists),
        "router_right": rows - len(router),
        "lists_right": rows - len(lists),
        "worst_score_error_of_tolerance": check.value,
        "error": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--releases", nargs="+", metavar="NAME==VERSION", help="these only")
    parser.add_argument("--work", type=Path, help="where the environments go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the environments in --work")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    switch_off()  # for the children too: ONNX Runtime reports nothing
    packages = [open_package(path) for path in options.packages]
    known = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    rows = {key(row): row for row in known}
    work = options.work or Path(tempfile.mkdtemp(prefix="canet-runtimes-"))
    for target, releases in RELEASES.items():
        mine = [package for package in packages if package.manifest["target"] == target]
        for release in releases if mine else ():
            name = f"{release.distribution}=={release.version}"
            if options.releases and name not in options.releases:
                continue
            folder = work / name
            made: list[dict[str, Any]] = []
            try:
                python = environment(release, folder)
                made = [{"package": package, **answered(python, release, package)} for package in mine]
            except CanetError as error:
                print(f"{name}: {error.what}", file=sys.stderr)
            for row in made:
                package = row.pop("package")
                found = about(release, package) | row
                rows[key(found)] = found
                text = f"{found['rows_right']} of {found['rows']} rows right {found['error'] or ''}"
                print(f"{name} {release.api}, {package.quantization}: {text}", file=sys.stderr)
            write_json(
                options.out,
                {
                    "benchmark": "runtime_floors",
                    "rows": sorted(rows.values(), key=order),
                    "machine": describe_machine(),
                },
            )
            if not options.keep and release is last(releases, name):
                shutil.rmtree(folder, ignore_errors=True)
    if options.work is None:
        shutil.rmtree(work, ignore_errors=True)


def last(releases: tuple[Release, ...], name: str) -> Release:
    """The last that uses the environment ``name``."""
    return [each for each in releases if f"{each.distribution}=={each.version}" == name][-1]


def about(release: Release, package: Package) -> dict[str, Any]:
    """What a row is about."""
    return {
        "target": package.manifest["target"],
        "quantization": package.quantization,
        "distribution": release.distribution,
        "version": release.version,
        "api": release.api,
        "torch": version("torch").partition("+")[0] if release.borrows else None,
        "items": package.items,
        "routes": len(package.routes),
        "exporter": package.manifest["exporter"],
    }


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """One row for each release, API and preset."""
    return tuple(row[name] for name in ("target", "quantization", "distribution", "version", "api"))


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """As RELEASES lists them."""
    releases = [(each.distribution, each.version, each.api) for each in RELEASES[row["target"]]]
    mine = (row["distribution"], row["version"], row["api"])
    place = releases.index(mine) if mine in releases else len(releases)
    return row["target"], place, *map(str, mine), row["quantization"]


if __name__ == "__main__":
    main()
