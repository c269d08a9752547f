"""Time of one training step on a GPU under other settings than the ones training takes by itself.

    python benchmarks/gpu_step.py datasets/clicks
    python benchmarks/gpu_step.py datasets/clicks --model canet-paper --batch 256

Batches are those of an epoch, of every length: what is planned or tuned for each new shape shows up here,
and not with random full windows. Settings take turns and are compared by the median of per-round ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _step import Step, take_turns

from canet_mobile.accelerator import choose_device
from canet_mobile.compare.methods import method_config, select
from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.split import length_buckets, training_windows
from canet_mobile.files import write_json
from canet_mobile.run.automatic import settled
from canet_mobile.run.config import TrainConfig, apply
from canet_mobile.run.directory import machine


def _as_shipped(device: torch.device) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def _bf16(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16):
        yield


@contextmanager
def _bf16_cudnn(device: torch.device) -> Iterator[None]:
    torch.backends.cuda.enable_cudnn_sdp(True)
    with torch.autocast(device.type, torch.bfloat16):
        yield
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("high")


@contextmanager
def _not_deterministic(device: torch.device) -> Iterator[None]:
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


SETTINGS = {
    "as shipped: float32, TF32 products": _as_shipped,
    "bf16 autocast": _bf16,
    "bf16 autocast, cuDNN's attention": _bf16_cudnn,
    "float32 products": _full_float32,
    "not deterministic": _not_deterministic,
}


def main() -> None:
    """Measure one model's step and print its table."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("data", type=Path, help="data set directory")
    parser.add_argument("--model", default="canet", help="as `canet-mobile compare --models` names it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20, help="batches that every setting takes")
    parser.add_argument("--accelerator", choices=("cuda", "cpu"), default="cuda", help="cpu is for tests")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    device = choose_device(options.accelerator, tf32=True)
    data = load_dataset(options.data)
    base = apply(TrainConfig(), {"batch": options.batch, "length": options.length})
    (method,) = select([options.model], base, data.num_items)
    config = settled(method_config(method, base, 0), data)
    windows = training_windows(data, config.length)
    batches = list(length_buckets(windows.sizes, config.batch, np.random.default_rng(0)))
    step = Step(config, data.num_items, device.type)

    def run(setting: Callable[[torch.device], AbstractContextManager[None]], number: int) -> None:
        seq, targets = windows.batch(batches[number % len(batches)])
        with setting(device):
            step(torch.from_numpy(seq).to(device), torch.from_numpy(targets).to(device).long(), number)

    found = take_turns(
        {name: partial(run, setting) for name, setting in SETTINGS.items()}, options.rounds, device.type
    )
    sizes = [len(batch) for batch in batches]
    print(f"{options.model}, batch {statistics.median(sizes):g}, {data.num_items:,} items")
    for name, numbers in found.items():
        print(f"  {name:38}" + "  ".join(f"{k} {v}" for k, v in numbers.items()))
    if options.out:
        write_json(options.out, {"machine": machine(), "model": options.model, "settings": found})


if __name__ == "__main__":
    main()
