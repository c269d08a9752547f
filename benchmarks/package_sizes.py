"""Size and export time of a package with all 36 routes beside the full model alone, per target and catalogue.

    OMP_NUM_THREADS=1 python benchmarks/package_sizes.py --items 4000 50000 200000

Random weights: sizes and export time hold for a trained model of the same shape. "Full model alone" is the
largest route exported without a router in the same format and quantization, measured as a file. Each row is a
process of its own; a row that stands in the results is not made again (--again does).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from executorch_routes import random_canet

from canet_export.job import Job
from canet_export.targets import TARGETS
from canet_mobile.files import write_json
from canet_mobile.machine import describe_machine, peak_resident_bytes, quiet
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.space import RoutingSpace

RESULTS = Path(__file__).parent / "results" / "package_sizes.json"
BITS = {"int8": 8, "int4": 4}


def folder_bytes(folder: Path, names: tuple[str, ...]) -> int:
    """Bytes of the files that an app opens."""
    return sum((folder / name).stat().st_size for name in names)


def measure(target: str, quantization: str, items: int, length: int) -> dict[str, Any]:
    """Export all routes, then the full model alone."""
    torch.set_num_threads(1)
    canet = random_canet(items, length, RoutingSpace(), "shared")
    exporter = TARGETS[target]

    def written(model: Canet, routes: tuple) -> tuple[int, int, float, dict]:
        bits = BITS.get(quantization)
        integers = quantize_model(model, bits) if bits else None  # type: ignore[arg-type]
        job = Job(model, integers, quantization, routes, 20)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder, quiet():
            start = time.process_time()
            result = exporter.export(job, Path(folder), lambda _: None)
            seconds = time.process_time() - start
            opened = [
                n for n in result.files if n == result.model_file or n.startswith(f"{result.model_file}/")
            ]
            size = folder_bytes(Path(folder), tuple(opened))
            return size, folder_bytes(Path(folder), result.files), seconds, result.sizes.to_json()

    size, all_files, seconds, sizes = written(canet, canet.space.routes)
    alone = written(Canet(canet.supernet, None), (canet.space.largest,))[0]
    return {
        "target": target,
        "quantization": quantization,
        "items": items,
        "length": length,
        "model_bytes": size,
        "all_files_bytes": all_files,
        "full_model_alone_bytes": alone,
        "ratio": round(size / alone, 4),
        "export_cpu_seconds": round(seconds, 1),
        "peak_resident_bytes": peak_resident_bytes(),
        "sizes": sizes,
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--quantize", nargs="+", default=["int8"], choices=("fp32", "fp16", "int8", "int4"))
    parser.add_argument("--items", nargs="+", type=int, default=[4000, 50_000, 200_000])
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("TARGET", "PRESET", "ITEMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        target, quantization, items = options.one
        print(json.dumps(measure(target, quantization, int(items), options.length)))
        return
    rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    for items in options.items:
        for target in options.targets:
            for quantization in options.quantize:
                key = (target, quantization, items, options.length)
                names = ("target", "quantization", "items", "length")
                is_there = any(tuple(row[name] for name in names) == key for row in rows)
                if quantization not in TARGETS[target].quantizations or (is_there and not options.again):
                    continue
                print(f"{target} {quantization}, {items:,} items", file=sys.stderr)
                command = [sys.executable, __file__, "--one", target, quantization, str(items)]
                command += ["--length", str(options.length)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
                if done.returncode:
                    print(done.stderr, file=sys.stderr)
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                rows = [r for r in rows if tuple(r[name] for name in names) != key] + [row]
                write_json(options.out, {"benchmark": "package_sizes", "rows": rows})
                print(
                    f"  {row['model_bytes'] / 1e6:.2f} MB, {row['ratio']:.3f} times the full model alone, "
                    f"{row['export_cpu_seconds']:.0f} CPU s"
                )


if __name__ == "__main__":
    main()
