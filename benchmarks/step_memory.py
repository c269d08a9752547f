"""Peak memory of one training step over a large catalogue, each case in a process of its own.

    python benchmarks/step_memory.py

Adam's state exists before the measured step (a first step with one short row makes it). The smaller
catalogue and batch are there to show the form of the growth: weights, gradients and Adam's state grow with
the items, activations with the positions, and nothing with their product, as a matrix of all scores would.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

RECIPES = ("sandwich", "rows", "sasrec")
LIMIT_GIB = 6
SCORE_BYTES = 4


def measure(recipe: str, batch: int, length: int, items: int, threads: int) -> dict[str, Any]:
    """Take a step in this process, which has done nothing else."""
    import torch
    from _step import Step, random_batch, sasrec

    from canet_mobile.run.config import TrainConfig

    torch.set_num_threads(threads)
    keys = sasrec(128, 8) if recipe == "sasrec" else {"recipe": recipe}
    imported = peak_mib()
    step = Step(TrainConfig(length=length, **keys), items, "cpu")
    step(*random_batch((1, 2, items), "cpu"), 0)
    begin = time.perf_counter()
    step(*random_batch((batch, length, items), "cpu"), 1)
    spent = time.perf_counter() - begin
    weights = sum(p.numel() * p.element_size() for p in step.parameters) >> 20
    return {
        "recipe": recipe,
        "items": items,
        "batch": batch,
        "length": length,
        "peak_mib": peak_mib(),
        "imports_mib": imported,
        "weights_mib": weights,
        "all_scores_mib": round(batch * length * (items + 1) * SCORE_BYTES / 2**20),
        "seconds": round(spent, 1),
    }


def peak_mib() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def in_new_process(case: tuple[Any, ...]) -> dict[str, Any]:
    """Measure a case in a fresh interpreter; this one imports no PyTorch, which its child would inherit."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
    )


def product_term(cases: list[dict[str, Any]]) -> dict[str, int]:
    """What the peak grows by with positions × items, beyond the growth with each alone.

    The difference of differences over the corners of (items × batch), beside that of a matrix of all scores.
    """

    def of(name: str) -> int:
        ordered = sorted(
            (c["items"], c["batch"], c[name]) for c in cases if c["recipe"] == cases[0]["recipe"]
        )
        batches = len({batch for _, batch, _ in ordered})
        small, wide, tall, both = ordered[0], ordered[batches - 1], ordered[-batches], ordered[-1]
        return (both[2] - tall[2]) - (wide[2] - small[2])

    return {"peak_mib": of("peak_mib"), "all_scores_mib": of("all_scores_mib")}


def main() -> None:
    """Measure every case, print the table, and fail over the limit."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="the first takes every size"
    )
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case)))
        return
    sizes = sorted(product(options.batch, options.items))
    wanted = [(options.recipes[0], *size) for size in sizes]
    wanted += [(recipe, *sizes[-1]) for recipe in options.recipes[1:]]
    cases = []
    print("| recipe | items | batch | peak MiB | weights MiB | a matrix of all scores, MiB | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for recipe, batch, items in wanted:
        found = in_new_process((recipe, batch, options.length, items, options.threads))
        cases.append(found)
        names = ("recipe", "items", "batch", "peak_mib", "weights_mib", "all_scores_mib", "seconds")
        cells = [f"{v:,}" if isinstance(v, int) else str(v) for v in (found[name] for name in names)]
        print(f"| {' | '.join(cells)} |", flush=True)
    growth = product_term(cases)
    print(f"growth with positions x items: {growth['peak_mib']} MiB; ", end="")
    print(f"that of a matrix of all scores: {growth['all_scores_mib']} MiB")
    if options.out:
        document = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "threads": options.threads,
            "cases": cases,
            "growth_with_positions_x_items": growth,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    highest = max(case["peak_mib"] for case in cases)
    if highest > LIMIT_GIB * 1024:
        sys.exit(f"{highest} MiB is over the limit of {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
