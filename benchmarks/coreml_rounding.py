"""What fp16 arithmetic costs a Core ML package: the reference interpreter with and without its rounding.

    OMP_NUM_THREADS=1 python benchmarks/coreml_rounding.py packages/retail-coreml-int8 --run runs/retail

Every route on the same test users, against PyTorch with the package's numbers: the largest score error as a
share of the list's largest score, and the mean overlap of the top 10. Without rounding what is left is the
rounding of stored biases, norms and positions.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canet_mobile.data.split import held_out
from canet_mobile.machine import quiet
from canet_mobile.package.package import open_package
from canet_mobile.replay.mil.interpreter import Loader
from canet_mobile.replay.mil.model import open_mlpackage
from canet_mobile.replay.reference import (
    exported_job,
    find_checkpoint,
    find_dataset,
    overlap,
    route_scores,
)
from canet_mobile.replay.runtimes.coreml import entry_files


def compare(package_path: Path, run: Path | None, users: int) -> dict[str, Any]:
    """Both ways of running every route of one package."""
    package = open_package(package_path)
    found = find_checkpoint(package, run)
    if found is None:
        raise SystemExit("pass the run it was exported from with --run")
    job = exported_job(package, found[1])
    queries = held_out(find_dataset(package, None, found[0]), "test", limit=users)
    seqs = queries.inputs(slice(None), package.length)
    rows: dict[str, dict[str, float]] = {}
    for rounds in (True, False):
        errors, overlaps, seconds = [], [], 0.0
        for route in package.routes:
            path, function = entry_files(package)[route.entry]
            program = Loader(open_mlpackage(path), rounds=rounds).load(function)
            full = route_scores(job.reference, seqs, route.route, job.seen)
            best = full.topk(10).indices.numpy()
            for row, seq in enumerate(seqs):
                start = time.perf_counter()
                answer = program(seq=seq[None])
                seconds += time.perf_counter() - start
                ids = answer["ids"][0].astype(np.int64)
                expected = full[row].numpy()[ids]
                errors.append(np.abs(answer["scores"][0] - expected).max() / np.abs(expected).max())
                overlaps.append(overlap(ids[None], best[row : row + 1], 10)[0])
        rows["rounded" if rounds else "unrounded"] = {
            "largest_relative_error": float(np.max(errors)),
            "mean_overlap": float(np.mean(overlaps)),
            "lists": len(errors),
            "ms_per_call": seconds / len(errors) * 1e3,
        }
    return {"package": package_path.name, "quantization": package.quantization, "users": users, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--users", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        rows = [compare(path, options.run, options.users) for path in options.packages]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
