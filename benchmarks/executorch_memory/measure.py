"""What a loaded package holds in memory with and without XNNPACK's weight cache, in a C++ runner.

    python benchmarks/executorch_memory/measure.py packages/retail

Builds ``memory.cpp`` against the headers and libraries of the installed ``executorch`` wheel (g++ is needed)
and writes ``benchmarks/results/executorch_memory.json``. Memory is anonymous resident memory: what the system
cannot drop. The mapped file is not in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from canet_mobile.machine import describe_machine
from canet_mobile.package.package import Package, open_package

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
LIBRARIES = ("", "_backend_xnnpack", "_kernels_optimized", "_kernels_quantized", "_threadpool")
CALLS = 40


def build(folder: Path) -> Path:
    """Compile the runner.

    Raises:
        SystemExit: g++ or the wheel is missing; says which.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        sys.exit("skipped: no g++ here (Debian: apt-get install g++)")
    found = importlib.util.find_spec("executorch")
    if found is None or not found.submodule_search_locations:
        sys.exit("skipped: no executorch here (pip install 'canet-mobile[executorch]')")
    wheel = Path(next(iter(found.submodule_search_locations)))
    runner = folder / "memory"
    command = [
        compiler, "-std=c++20", "-O2", "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-isystem", str(wheel / "include"),
        "-isystem", str(wheel / "include/executorch/runtime/core/portable_type/c10"),
        str(HERE / "memory.cpp"), f"-L{wheel / 'lib'}", "-Wl,--no-as-needed",
        *(f"-lexecutorch{library}" for library in LIBRARIES), f"-Wl,-rpath,{wheel / 'lib'}",
        "-o", str(runner),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return runner


def loaded(runner: Path, package: Package, entries: list[str], *, cache: bool) -> list[dict[str, Any]]:
    """Load these entries in this order; the parts that they need are given, no others.

    Returns:
        A row for the program alone, then one per entry.
    """
    needed = [
        str(package.directory / part.name)
        for part in package.manifest.parts
        if set(entries) & set(part.entries)
    ]
    arguments = [
        package.model_path,
        ",".join(needed) or "-",
        int(cache),
        package.length,
        package.items,
        CALLS,
    ]
    command = [str(runner), *map(str, arguments), *entries]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{runner.name} failed: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(package: Package, runner: Path) -> dict[str, Any]:
    """Router and one route, a second route, and all of them; with and without the cache."""
    routes = sorted(package.routes, key=lambda row: row.executed_mflops)
    small, large = routes[0].entry, routes[-1].entry
    cases = {
        "router_and_smallest": ["router", small],
        "router_and_largest": ["router", large],
        "router_smallest_then_largest": ["router", small, large],
        "router_largest_then_smallest": ["router", large, small],
        "all": ["router", *(row.entry for row in package.routes)],
    }
    found: dict[str, Any] = {}
    for name, entries in cases.items():
        found[name] = {}
        for cache in (False, True):
            program, *rows = loaded(runner, package, entries, cache=cache)
            before = [program, *rows]
            found[name]["weight_cache" if cache else "no_cache"] = {
                "anon_mb": round((rows[-1]["anon_kb"] - program["anon_kb"]) / 1024, 2),
                "rss_mb": round(rows[-1]["rss_kb"] / 1024, 2),
                "last_entry_anon_mb": round((rows[-1]["anon_kb"] - before[-2]["anon_kb"]) / 1024, 2),
                "last_entry_load_cpu_ms": rows[-1]["load_cpu_ms"],
                "last_entry_call_cpu_ms": rows[-1]["call_cpu_ms"],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, nargs="+", help="package directories or zips")
    parser.add_argument("--out", type=Path, default=RESULTS / "executorch_memory.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runner = build(Path(folder))
        results = []
        for path in options.packages:
            package = open_package(path)
            results.append(
                {
                    "package": package.name,
                    "items": package.items,
                    "quantization": package.quantization,
                    "split": bool(package.manifest.parts),
                    "model_bytes": package.manifest.sizes.total_bytes,
                    **measure(package, runner),
                }
            )
    report = {
        "benchmark": "executorch_memory",
        "executorch": version("executorch"),
        "machine": describe_machine(),
        "threads": 1,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
