"""Export every route of a random model to ExecuTorch and time them: CPU seconds, bytes, latency, one thread.

    OMP_NUM_THREADS=1 python benchmarks/executorch_routes.py --quantize int8

Random weights: sizes, export time and latency hold for a trained model of the same shape, accuracy does not.
Latency is CPU time of this machine through ExecuTorch's Python runtime: read ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from canet_export.executorch.export import export
from canet_export.job import Job
from canet_mobile.machine import quiet
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import BALANCED
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig

RESULTS = Path(__file__).parent / "results"
ROUTER_HISTORIES = 1000
POINT = torch.tensor([BALANCED], dtype=torch.int32)


def random_canet(items: int, length: int, space: RoutingSpace, table: str) -> Canet:
    """A model whose blocks act: residual scalars of 0.5 and scores that spread."""
    torch.manual_seed(0)
    canet = Canet(
        Supernet(SupernetConfig(items, length, space)),
        Router(RouterConfig(items, length, len(space), table=table)),  # type: ignore[arg-type]
    ).eval()
    with torch.no_grad():
        canet.supernet.item_table.normal_()
        canet.supernet.own_classifier.normal_(std=0.1)
        for block in canet.supernet.blocks:
            block.residual1.fill_(0.5)  # type: ignore[operator, union-attr]
            block.residual2.fill_(0.5)  # type: ignore[operator, union-attr]
    return canet


def histories(items: int, length: int, count: int) -> torch.Tensor:
    """Random left-padded histories [count, length] int32 of 1 to ``length`` items."""
    generator = torch.Generator().manual_seed(1)
    seqs = torch.randint(1, items + 1, (count, length), generator=generator, dtype=torch.int32)
    sizes = torch.randint(1, length + 1, (count, 1), generator=generator)
    return seqs * (torch.arange(length) >= length - sizes)


def latency_ms(program: Any, entry: str, inputs: list[torch.Tensor], runs: int) -> float:
    """Median CPU milliseconds of a call."""
    method = program.load_method(entry)
    taken = []
    for _ in range(runs + 5):
        start = time.process_time_ns()
        method.execute(inputs)
        taken.append(time.process_time_ns() - start)
    return statistics.median(taken[5:]) / 1e6


def measure(canet: Canet, quantize: str, runs: int) -> dict[str, Any]:
    """Export all routes, then the full model alone, and time every route."""
    import executorch.extension.pybindings.portable_lib as portable
    import executorch.kernels.quantized  # noqa: F401  registers the int8 embedding
    from executorch.runtime import Runtime

    portable._unsafe_reset_threadpool(1)
    config = canet.supernet.config
    bits = {"int8": 8, "int4": 4}.get(quantize)
    integers = None if bits is None else quantize_model(canet, bits)  # type: ignore[arg-type]
    job = Job(canet, integers, quantize, canet.space.routes, 20)  # type: ignore[arg-type]
    seqs = histories(config.items, config.length, ROUTER_HISTORIES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = export(job, Path(folder), lambda text: print(text, file=sys.stderr))
        seconds = time.process_time() - start
        program = Runtime.get().load_program(Path(folder) / result.model_file)
        route = program.load_method("router")
        agree = sum(
            int(route.execute([seq[None], POINT])[0]) == int(expected)
            for seq, expected in zip(seqs, job.reference.route(seqs), strict=True)
        )
        times = {r.entry: latency_ms(program, r.entry, [seqs[:1]], runs) for r in canet.space}
        router_ms = latency_ms(program, "router", [seqs[:1], POINT], runs)
    with tempfile.TemporaryDirectory() as folder:
        alone_start = time.process_time()
        export(replace(job, routes=(canet.space.largest,)), Path(folder))
        alone_seconds = time.process_time() - alone_start
        alone_bytes = (Path(folder) / result.model_file).stat().st_size
    smallest, full = times[canet.space.smallest.entry], times[canet.space.largest.entry]
    return {
        "quantize": quantize,
        "export_cpu_seconds": round(seconds, 1),
        "sizes": result.sizes.to_json(),
        "full_model_and_router_measured_bytes": alone_bytes,
        "full_model_and_router_export_cpu_seconds": round(alone_seconds, 1),
        "router_agreement_same_integers": agree / len(seqs),
        "router_agreement_fp32": float((job.reference.route(seqs) == canet.route(seqs)).float().mean()),
        "router_ms": round(router_ms, 4),
        "latency_ms": {entry: round(value, 4) for entry, value in times.items()},
        "smallest_to_full": round(smallest / full, 4),
        "one_delegate_each": all(row.partitions == 1 for row in result.delegation),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument(
        "--quantize", choices=("fp32", "int8", "int4"), action="append", help="repeat for several"
    )
    parser.add_argument("--router-table", choices=("shared", "own"), default="shared")
    parser.add_argument("--runs", type=int, default=40, help="timed calls per route")
    parser.add_argument("--out", type=Path, default=RESULTS / "executorch_routes.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    canet = random_canet(options.items, options.length, RoutingSpace(), options.router_table)
    results = []
    with quiet():
        for quantize in options.quantize or ["int8", "fp32"]:
            results.append(measure(canet, quantize, options.runs))
    report = {
        "benchmark": "executorch_routes",
        "items": options.items,
        "length": options.length,
        "router_table": options.router_table,
        "threads": 1,
        "machine": f"{platform.machine()}, {platform.system()}",
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
