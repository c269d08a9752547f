"""Time of one CANet training step beside one plain SASRec 8 × 128 step of the same batch.

    python benchmarks/train_step.py --sizes all --threads 1    every recipe against plain SASRec
    python benchmarks/train_step.py --forms --sizes all        masked, grouped and sliced, same routes
    python benchmarks/train_step.py --loss --sizes all         the catalogue loss against PyTorch's own

Candidates take turns (A B C A B C ...) and are compared by the median of per-round ratios, so that other
work on the machine disturbs all of them alike. Prints a table; --out adds the numbers to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _step import Found, Size, Step, differentiate, random_batch, sasrec, take_turns
from torch import Tensor

from canet_mobile.accelerator import choose_device
from canet_mobile.files import write_json
from canet_mobile.model.losses import catalogue_loss
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import machine

TINY: list[Size] = [(4, 8, 50)]
STEPS: list[Size] = [(64, 50, 4_006), (64, 20, 4_006), (64, 50, 12_101), (128, 50, 4_006)]
FORMS: list[Size] = [(64, 50, 4_006), (64, 20, 4_006), (64, 5, 4_006), (8, 50, 4_006), (8, 5, 4_006)]
LOSSES: list[Size] = [(64, 50, 4_006), (64, 50, 12_101), (16, 50, 43_000)]
REFERENCE = "SASRec 8x128"
BAR = 0.75  # a step of the recipe `rows` may take this share of the reference's


CANDIDATES: dict[str, dict[str, Any]] = {
    REFERENCE: sasrec(128, 8),
    "rows": {"recipe": "rows"},
    "sandwich": {"recipe": "sandwich"},
    "paper (masked)": {"recipe": "paper"},
    "SASRec 2x64": sasrec(64, 2),
}


def compare_steps(size: Size, rounds: int, device: str) -> Found:
    """Every recipe's step against the plain SASRec's, and how much of it the catalogue loss takes."""
    batch, length, items = size
    seq, targets = random_batch(size, device)
    steps = {n: Step(TrainConfig(length=length, **keys), items, device) for n, keys in CANDIDATES.items()}
    found = take_turns({name: partial(step, seq, targets) for name, step in steps.items()}, rounds, device)
    for name, step in steps.items():
        shares = [step.loss_share(seq, targets, seed) for seed in range(min(3, rounds))]
        found[name]["targets_per_second"] = round(1000 * batch * length / found[name]["ms"])
        found[name]["loss_share"] = round(statistics.median(shares), 4)
    ratio = found["rows"]["ratio"]
    print(f"\nrows: {ratio} x {REFERENCE}, the bar is {BAR}: {'within' if ratio <= BAR else 'OVER'}")
    return found


def compare_forms(size: Size, rounds: int, device: str) -> Found:
    """Forward and backward of the supernet's three forms on the same random routes, without a loss."""
    seq, _ = random_batch(size, device)
    net = Supernet(SupernetConfig(size[2], size[1])).to(device)
    routes = net.config.space.routes

    def masked(ids: Tensor) -> Tensor:
        return net.masked(seq, F.one_hot(ids, len(routes)).to(seq.device, torch.float32)).sum()

    def grouped(ids: Tensor) -> Tensor:
        return torch.stack([states.sum() for _, states, _ in net.grouped(seq, ids.to(seq.device))]).sum()

    def sliced(ids: Tensor) -> Tensor:
        return torch.stack([net.sliced(seq[ids == i], routes[i]).sum() for i in ids.unique().tolist()]).sum()

    def run(form: Callable[[Tensor], Tensor], seed: int) -> None:
        ids = torch.randint(len(routes), (len(seq),), generator=torch.Generator().manual_seed(seed))
        differentiate(partial(form, ids), net)

    return take_turns(
        {form.__name__: partial(run, form) for form in (masked, grouped, sliced)}, rounds, device
    )


def compare_losses(size: Size, rounds: int, device: str) -> Found:
    """Forward and backward of cross-entropy over the catalogue, 128 channels, batch × length rows."""
    targets = random_batch(size, device)[1].flatten()
    torch.manual_seed(0)
    net = Supernet(SupernetConfig(size[2], 2, RoutingSpace((128,), (128,), (1,)), in_projection=False)).to(
        device
    )
    states = torch.randn(len(targets), 128, device=device, requires_grad=True)
    weight, bias, options = net.classifier_weight, net.classifier_bias, torch.nn.LinearCrossEntropyOptions()
    chunked = partial(F.linear_cross_entropy, linear_bias=bias, reduction="sum", options=options)
    losses: dict[str, Callable[[], Tensor]] = {
        "linear, cross_entropy": lambda: F.cross_entropy(net.scores(states), targets, reduction="sum"),
        "linear_cross_entropy": partial(chunked, states, weight, targets),
        "catalogue_loss": partial(catalogue_loss, net, states, targets),
    }

    def run(name: str, seed: int) -> None:
        differentiate(losses[name], net)

    return take_turns({name: partial(run, name) for name in losses}, rounds, device)


MODES: dict[str, tuple[Callable[[Size, int, str], Found], list[Size]]] = {
    "steps": (compare_steps, STEPS),
    "forms": (compare_forms, FORMS),
    "loss": (compare_losses, LOSSES),
}


def main() -> None:
    """Measure one mode and print its tables."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    mode = parser.add_mutually_exclusive_group()
    for name in ("forms", "loss"):
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, default="steps")
    parser.add_argument(
        "--sizes", choices=("tiny", "quick", "all"), default="quick", help="tiny is for tests"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to add the results to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    choose_device(options.device, tf32=True)
    compare, sizes = MODES[options.mode]
    results = []
    for size in {"tiny": TINY, "quick": sizes[:1], "all": sizes}[options.sizes]:
        found = compare(size, options.rounds, options.device)
        results.append({"batch": size[0], "length": size[1], "items": size[2], "candidates": found})
        print("batch {}, length {}, items {:,}".format(*size))
        for candidate, numbers in found.items():
            print(f"  {candidate:23}" + "  ".join(f"{k} {v}" for k, v in numbers.items()), flush=True)
    if options.out:
        whole = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
        key = f"{options.mode}-{options.device}-{options.threads}"
        whole[key] = {"machine": machine(), "rounds": options.rounds, "sizes": results}
        write_json(options.out, dict(sorted(whole.items())))


if __name__ == "__main__":
    main()
