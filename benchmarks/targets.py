"""Every target and preset on a trained run: size, accuracy, agreement, latency, load time, memory.

Of the default package, which holds the routes that users get, and of the one with all routes.

    OMP_NUM_THREADS=1 python benchmarks/targets.py runs/retail runs/beauty --work packages
    python benchmarks/targets_table.py            # docs/targets/README.md from the records

Each package is exported and checked with `canet-mobile export`, replayed by test users (accuracy beside
PyTorch fp32 on the same users), and timed in a process of its own: one thread, rounds in which the package
and the stock fp32 export of a plain SASRec (128 x 8, what a user would ship without us) take turns, so that
ratios hold on a noisy machine. Memory is what opening the package and running router and one route adds to
the process. Core ML cannot run off a Mac: its accuracy is the reference interpreter's, its latency and
memory are not measured. Records stand in benchmarks/results/targets/; one that is there is not made again
(--again does).
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from _stock import plain_sasrec

from canet_export.targets import TARGETS
from canet_mobile.data.split import held_out
from canet_mobile.files import MANIFEST, write_json
from canet_mobile.machine import describe_machine, quiet, resident_bytes
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import open_device, recommend, run_entry, run_router
from canet_mobile.replay.reference import find_dataset, package_lists
from canet_mobile.replay.replay import replay
from canet_mobile.run.directory import find_run, load_canet

RESULTS = Path(__file__).parent / "results" / "targets"
NOT_RUN_HERE = ("coreml",)  # off a Mac by a reference interpreter only
# Imported before memory is read, so that a package's own share is measured and not Python's.
RUNTIMES = {
    "executorch": ("torch", "executorch.kernels.quantized", "executorch.runtime"),
    "tflite": ("ai_edge_litert.interpreter",),
    "onnx": ("onnxruntime",),
}
PARTS = ("accuracy", "latency", "memory")
ROUTES = {"default": "auto", "all": "all"}
ROUNDS = 15
AVERAGE_USERS = 60


def timed(call: Any, repeats: int) -> float:
    """Mean milliseconds of ``repeats`` calls."""
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - start) / 1e6 / repeats


def latency(package: Package, work: Path) -> dict[str, Any]:
    """Milliseconds on one thread, in turns: stock model, smallest and largest route, the average user."""
    import torch

    torch.set_num_threads(1)
    target = package.manifest.target
    stock = import_module(f"_stock_{target}")
    path = work / f"stock-{target}-{package.items}-{package.length}.model"
    if not path.exists():
        with quiet():
            example = torch.zeros(1, package.length, dtype=torch.int32)
            stock.export_stock(plain_sasrec(package.items, package.length), (example,), path)
    run_stock = stock.open_stock(path, 1)
    device = open_device(package)
    dataset = find_dataset(package, None, None)
    seqs = held_out(dataset, "test", limit=AVERAGE_USERS).inputs(slice(None), package.length)
    smallest, largest = package.routes[0].entry, package.routes[-1].entry
    for seq in seqs:
        recommend(device, package, seq)
    calls = {
        "stock_fp32": lambda: run_stock(seqs[0]),
        "router": lambda: run_router(device, seqs[0]),
        "smallest": lambda: run_entry(device, smallest, seqs[0], package.k),
        "full": lambda: run_entry(device, largest, seqs[0], package.k),
    }
    for call in calls.values():
        timed(call, 5)
    taken: dict[str, list[float]] = {name: [] for name in [*calls, "average_user"]}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken[name].append(timed(call, 10))
        start = time.perf_counter_ns()
        for seq in seqs:
            recommend(device, package, seq)
        taken["average_user"].append((time.perf_counter_ns() - start) / 1e6 / len(seqs))
    base = np.array(taken["stock_fp32"])
    return {
        name: {
            "ms": round(float(np.median(values)), 4),
            "to_stock_fp32": round(float(np.median(np.array(values) / base)), 4),
        }
        for name, values in taken.items()
    }


def memory(package: Package) -> dict[str, Any]:
    """Milliseconds and resident bytes: opening a package, router and one route, then a second route."""
    seq = np.zeros(package.length, np.int32)
    seq[-1] = 1
    with quiet():
        for name in RUNTIMES[package.manifest.target]:
            import_module(name)
    before = resident_bytes() or 0
    start = time.perf_counter_ns()
    device = open_device(package)
    opened_ms = (time.perf_counter_ns() - start) / 1e6
    opened = resident_bytes() or 0
    start = time.perf_counter_ns()
    run_router(device, seq)
    run_entry(device, package.routes[0].entry, seq, package.k)
    first_ms = (time.perf_counter_ns() - start) / 1e6
    one = resident_bytes() or 0
    run_entry(device, package.routes[-1].entry, seq, package.k)
    two = resident_bytes() or 0
    return {
        "program_ms": round(device.program_ms, 2),
        "open_ms": round(opened_ms, 2),
        "router_and_smallest_first_ms": round(first_ms, 2),
        "opened_bytes": opened - before,
        "router_and_smallest_bytes": one - before,
        "and_full_bytes": two - before,
    }


def accuracy(package: Package, run: Path, users: int) -> dict[str, Any]:
    """NDCG@10, agreement and overlap of the package beside PyTorch fp32, on test users."""
    found = find_run(run)
    queries = held_out(find_dataset(package, None, found), "test", limit=users)
    report = replay(
        package,
        queries.inputs(slice(None), package.length),
        queries.targets,
        reference=partial(package_lists, load_canet(found), package),
    )
    return {
        "users": len(queries),
        "package": report["metrics"]["package"],
        "pytorch_fp32": report["metrics"]["pytorch"],
        **report["agreement"],
        "paper_mflops": report["costs"]["paper_mflops"],
    }


def part(name: str, package: Path, *extra: str) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--part", name, str(package), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output"}
    return json.loads(done.stdout.splitlines()[-1])


def measured(run: Path, folder: Path, target: str, names: tuple[str, ...], options: Any) -> dict[str, Any]:
    """The named parts of a record."""
    extras = {
        "accuracy": ("--run", str(run), "--users", str(options.users)),
        "latency": ("--work", str(options.work)),
        "memory": (),
    }
    runs_here = target not in NOT_RUN_HERE
    return {
        name: part(name, folder, *extras[name]) if runs_here or name == "accuracy" else None for name in names
    }


def named(run: Path, target: str, preset: str, held: str) -> str:
    """What a record, and with dashes its package, is called."""
    return ".".join([run.name, target, preset, *(["default"] if held == "default" else [])])


def record(
    run: Path, target: str, preset: str, held: str, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Export, check and measure one package."""
    folder = options.work / named(run, target, preset, held).replace(".", "-")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "canet_mobile", "export", str(run), "--target", target]
    command += ["--quantize", preset, "--out", str(folder), "--force", "--json", "--users", "0"]
    command += ["--routes", ROUTES[held]]
    if options.seen:
        command += ["--seen", options.seen]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {
        "benchmark": "targets",
        "run": run.name,
        "target": target,
        "quantization": preset,
        "items": manifest["items"],
        "seen": manifest["seen"],
        "held": held,
        "routes": len(manifest["routes"]),
        "integers": manifest["integers"],
        "checkpoint_sha256": manifest["checkpoint"]["sha256"],
        "exporter": manifest["exporter"],
        "sizes": manifest["sizes"],
        "export_and_checks_cpu_seconds": round(seconds, 1),
        **measured(run, folder, target, PARTS, options),
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--quantize", nargs="+", default=["int8", "fp32"])
    parser.add_argument("--held", nargs="+", default=list(ROUTES), choices=list(ROUTES), help="which routes")
    parser.add_argument("--seen", choices=("keep", "exclude"))
    parser.add_argument("--users", type=int, default=1000, help="test users for accuracy")
    parser.add_argument("--work", type=Path, default=Path("packages"), help="where the packages go")
    parser.add_argument("--again", action="store_true", help="make records anew that are there already")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="measure these parts anew on the packages in --work"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "PACKAGE"), help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, folder = options.part
        package = open_package(Path(folder))
        parts = {
            "latency": lambda: latency(package, options.work),
            "memory": lambda: memory(package),
            "accuracy": lambda: accuracy(package, options.run, options.users),
        }
        print(json.dumps(parts[name]()))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    wanted = itertools.product(options.runs, options.targets, options.quantize, options.held)
    for run, target, preset, held in wanted:
        name = named(run, target, preset, held)
        path = options.out / f"{name}.json"
        if preset not in TARGETS[target].quantizations:
            continue
        if options.only and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            folder = options.work / name.replace(".", "-")
            found["seen"] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["seen"]
            found |= measured(run, folder, target, tuple(options.only), options)
        elif path.exists() and not options.again:
            continue
        else:
            print(f"{run.name}: {target} {preset}, {held} routes", file=sys.stderr)
            found = record(run, target, preset, held, options)
        if found is not None:
            write_json(path, found)


if __name__ == "__main__":
    main()
