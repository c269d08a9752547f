"""What a call of an ONNX package costs: router and route in one run, and apart, beside the stock model.

    OMP_NUM_THREADS=1 python benchmarks/onnx_calls.py packages/retail-onnx-int8 --work packages

One thread. Every history runs once a round, each way of calling in turn; the figure is the mean over the
histories of their fastest round, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _stock import plain_sasrec
from _stock_onnx import export_stock, open_stock

from canet_mobile.data.split import held_out
from canet_mobile.model.points import BALANCED
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import open_device, recommend
from canet_mobile.replay.reference import find_dataset
from canet_mobile.telemetry import onnxruntime

ROUNDS = 12


def ways(package: Package, work: Path) -> dict[str, Callable[[np.ndarray], Any]]:
    """By name: what runs on one history [L]."""
    ort = onnxruntime()

    path = work / f"stock-onnx-{package.items}-{package.length}.model"
    if not path.exists():
        example = (torch.zeros(1, package.length, dtype=torch.int32),)
        export_stock(plain_sasrec(package.items, package.length), example, path)
    device = open_device(package)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(package.model_path), options, providers=["CPUExecutionProvider"])
    smallest, full = package.routes[0].entry, package.routes[-1].entry
    asked = {"force_route": np.array([-1], np.int32), "point": np.array([BALANCED], np.int32)}
    return {
        "stock_fp32": open_stock(path, 1),
        "router": lambda seq: device.call("router", seq, BALANCED),
        "smallest": lambda seq: device.call(smallest, seq, BALANCED),
        "full": lambda seq: device.call(full, seq, BALANCED),
        "router_then_route": lambda seq: recommend(device, package, seq),
        "one_call": lambda seq: session.run(["route", "scores", "ids"], {"seq": seq[None], **asked}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--users", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("packages"), help="where the stock model goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    package = open_package(options.package)
    dataset = find_dataset(package, options.data, None)
    seqs = held_out(dataset, "test", limit=options.users).inputs(slice(None), package.length)
    calls = ways(package, options.work)
    taken: dict[str, list[list[int]]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call(seqs[0])
            row = []
            for seq in seqs:
                start = time.perf_counter_ns()
                call(seq)
                row.append(time.perf_counter_ns() - start)
            taken[name].append(row)
    best = {name: float(np.min(rows, axis=0).mean()) / 1e6 for name, rows in taken.items()}
    device = open_device(package)
    chosen = Counter(recommend(device, package, seq).route for seq in seqs)
    report = {
        "benchmark": "onnx_calls",
        "package": options.package.name,
        "ms": {name: round(value, 4) for name, value in best.items()},
        "to_stock_fp32": {name: round(value / best["stock_fp32"], 4) for name, value in best.items()},
        "routes_chosen": {package.route(route).entry: count for route, count in chosen.most_common()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
