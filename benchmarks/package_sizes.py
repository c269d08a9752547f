"""Size and export time of the default package and of all 36 routes, per target and catalogue.

    OMP_NUM_THREADS=1 python benchmarks/package_sizes.py --items 4000 50000 200000

Each package stands beside two figures: the full model alone, which is the largest route exported without a
router in the same format and quantization, measured as a file; and the weights that its routes and its router
use, counted once. Random weights: sizes and export time hold for a trained
model of the same shape. The default package holds the routes that its router gives to users; here those of
the recorded run on online-retail (canet, seed 0), the dearest pair of its three seeds. Each row is a process
of its own; a row that stands in the results is not made again (--again does).
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

from canet_export.graph import RouteGraph, restricted
from canet_export.job import Job
from canet_export.slices import Slice, Weights
from canet_export.targets import TARGETS
from canet_mobile.files import write_json
from canet_mobile.machine import describe_machine, peak_resident_bytes, quiet
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import FOLDED_INTO, IntegerModel, quantize_model
from canet_mobile.model.space import Route, RoutingSpace

RESULTS = Path(__file__).parent / "results" / "package_sizes.json"
BITS = {"int8": 8, "int4": 4}
HELD = {"default": ("e128_h64_d2", "e128_h128_d4"), "all": tuple(route.entry for route in RoutingSpace())}
KEY = ("target", "quantization", "items", "length", "held")
K = 20
HALF, FLOAT = 2, 4  # bytes


def weights_once(
    canet: Canet, integers: IntegerModel | None, quantization: str, routes: tuple[Route, ...]
) -> int:
    """Bytes of every number that the routes or the router use, each counted once: integers in their bits,
    their scales in halves, what is not quantized in float32 (the supernet in halves for fp16); the
    scalars that are folded into matrices not at all."""
    weights = Weights(canet)
    for route in routes:
        RouteGraph(weights, canet, route, K, "keep")
    used = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in weights.full.items()}
    for key in weights.made:
        name, part = (
            (key.name, key.part) if isinstance(key, Slice) else (key[0], None if key[2] < 0 else key[2])
        )
        where = used[name] if part is None else used[name][part]
        if isinstance(key, Slice):
            where[: key.rows, key.start : key.stop] = True
        else:
            where[: key[1]] = True
    for name, where in used.items():
        if name.startswith("router."):
            where.fill_(name.rpartition(".")[2] not in FOLDED_INTO)
    total = 0.0
    for name, where in used.items():
        found = None if integers is None else integers.tensors.get(name)
        count = int(where.sum())
        if found is None:
            total += count * (HALF if quantization == "fp16" and not name.startswith("router.") else FLOAT)
        else:
            groups = where.shape[-1] // found.scale.shape[-1]
            total += count * found.bits / 8 + int(where[..., ::groups].sum()) * HALF
    return round(total)


def measure(target: str, quantization: str, items: int, length: int, held: str) -> dict[str, Any]:
    """Export a package's routes and router, then the full model alone."""
    torch.set_num_threads(1)
    canet = random_canet(items, length, RoutingSpace(), "shared")
    exporter, bits = TARGETS[target], BITS.get(quantization)

    def written(model: Canet, routes: tuple[Route, ...]) -> tuple[int, int, float, dict]:
        integers = quantize_model(model, bits) if bits else None  # type: ignore[arg-type]
        job = Job(model, integers, quantization, routes, K)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder, quiet():
            start = time.process_time()
            result = exporter.export(job, Path(folder), lambda _: None)
            seconds = time.process_time() - start
            sizes = {name: (Path(folder) / name).stat().st_size for name in result.files}
            opened = [n for n in sizes if n == result.model_file or n.startswith(f"{result.model_file}/")]
            return sum(sizes[n] for n in opened), sum(sizes.values()), seconds, result.sizes.to_json()

    routes = tuple(canet.space.named(entry) for entry in HELD[held])
    routed = restricted(canet, [canet.space.id_of(route) for route in routes])
    size, all_files, seconds, sizes = written(routed, routes)
    alone = written(Canet(canet.supernet, None), (canet.space.largest,))[0]
    integers = quantize_model(routed, bits) if bits else None  # type: ignore[arg-type]
    once = weights_once(routed, integers, quantization, routes)
    return {
        "target": target,
        "quantization": quantization,
        "items": items,
        "length": length,
        "held": held,
        "routes": len(routes),
        "model_bytes": size,
        "all_files_bytes": all_files,
        "full_model_alone_bytes": alone,
        "ratio": round(size / alone, 4),
        "weights_once_bytes": once,
        "to_weights_once": round(size / once, 4),
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
    parser.add_argument("--held", nargs="+", default=list(HELD), choices=list(HELD), help="which routes")
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--one", nargs=4, metavar=("TARGET", "PRESET", "ITEMS", "HELD"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        target, quantization, items, held = options.one
        print(json.dumps(measure(target, quantization, int(items), options.length, held)))
        return
    rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    wanted = [
        (target, quantization, items, options.length, held)
        for items in options.items
        for target in options.targets
        for quantization in options.quantize
        for held in options.held
        if quantization in TARGETS[target].quantizations
    ]
    for key in wanted:
        if any(tuple(row[name] for name in KEY) == key for row in rows) and not options.again:
            continue
        target, quantization, items, length, held = key
        print(f"{target} {quantization}, {items:,} items, {held} routes", file=sys.stderr)
        command = [sys.executable, __file__, "--one", target, quantization, str(items), held]
        done = subprocess.run(
            [*command, "--length", str(length)], capture_output=True, text=True, check=False, encoding="utf-8"
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        rows = [r for r in rows if tuple(r[name] for name in KEY) != key] + [row]
        write_json(options.out, {"benchmark": "package_sizes", "rows": rows})
        print(
            f"  {row['model_bytes'] / 1e6:.2f} MB, {row['ratio']:.3f} times the full model alone, "
            f"{row['to_weights_once']:.3f} times the weights in use, {row['export_cpu_seconds']:.0f} CPU s"
        )


if __name__ == "__main__":
    main()
