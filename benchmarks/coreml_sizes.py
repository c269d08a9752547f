"""Export every route of a random model to Core ML: bytes beside the full model alone, CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/coreml_sizes.py --items 4000 --items 50000 --items 200000

Random weights: sizes and export time hold for a trained model of the same shape. The full model alone is
really written, as a package of one function; so are, with ``--separate``, all 37 packages of one function.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from canet_export.coreml.export import export, write_package
from canet_export.coreml.sizes import package_bytes
from canet_export.coreml.stored import check_stored
from canet_export.coreml.toolkit import toolkit
from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job, Quantization
from canet_mobile.machine import describe_machine, peak_resident_bytes
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig

RESULTS = Path(__file__).parent / "results"
BITS = {"int8": 8, "int4": 4}


def random_model(items: int, length: int, *, tied: bool) -> Canet:
    """The paper's 36 routes with random weights and a router that reads the supernet's table."""
    torch.manual_seed(0)
    space = RoutingSpace()
    supernet = Supernet(SupernetConfig(items, length, space, tied=tied))
    return Canet(supernet, Router(RouterConfig(items, length, len(space)))).eval()


def written_bytes(job: Job, entry: str) -> int:
    """Size of a package of this entry alone, really written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alone.mlpackage"
        write_package(job, toolkit(), path, [entry], multifunction=True)
        return package_bytes(path)


def measure(items: int, quantize: Quantization, *, tied: bool, separate: bool) -> dict[str, Any]:
    """One export, read back, and its sizes."""
    canet = random_model(items, 50, tied=tied)
    bits = BITS.get(quantize)
    job = Job(canet, quantize_model(canet, bits) if bits else None, quantize, canet.space.routes, 20)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = export(job, Path(folder))
        export_seconds = time.process_time() - start
        start = time.process_time()
        check = check_stored(Path(folder), job)
        check_seconds = time.process_time() - start
    alone = written_bytes(job, canet.space.largest.entry)
    entries = [ROUTER_ENTRY, *(route.entry for route in canet.space)]
    return {
        "items": items,
        "quantize": quantize,
        "tied": tied,
        "export_cpu_seconds": round(export_seconds, 1),
        "read_back_cpu_seconds": round(check_seconds, 1),
        "read_back": check.detail,
        "passed": check.passed,
        "sizes": result.sizes.to_json(),
        "full_model_alone_written_bytes": alone,
        "all_to_full": round(result.sizes.total_bytes / alone, 4),
        "separate_written_bytes": sum(written_bytes(job, e) for e in entries) if separate else None,
        "peak_resident_bytes": peak_resident_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, action="append", help="catalogue size; repeat for several")
    parser.add_argument("--quantize", choices=("fp32", "fp16", "int8", "int4"), action="append")
    parser.add_argument("--tied", action="store_true", help="classifier and item table are one")
    parser.add_argument("--separate", action="store_true", help="also write every entry on its own")
    parser.add_argument("--out", type=Path, default=RESULTS / "coreml_sizes.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for items in options.items or [4000]:
        for quantize in options.quantize or ["int8"]:
            print(f"{quantize}, {items} items", file=sys.stderr)
            rows.append(measure(items, quantize, tied=options.tied, separate=options.separate))
    report = {"benchmark": "coreml_sizes", "machine": describe_machine(), "results": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
