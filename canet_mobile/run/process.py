"""The process a run lives in: device, precision, other processes, and the signals that ask it to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from canet_mobile.accelerator import choose_device
from canet_mobile.errors import EXIT_INTERRUPTED, CanetError
from canet_mobile.run.config import TrainConfig


class Interrupted(CanetError):
    """Ctrl-C or SIGTERM; the state was saved and the run can be resumed."""

    exit_code = EXIT_INTERRUPTED


def launch(config: TrainConfig) -> Fabric:
    """One process, or as many as torchrun started, on the configured device.

    Raises:
        CanetError: CUDA was asked for and is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.accelerator, tf32=True)
    # Small models wait for kernels to be launched, and every cast of autocast is one more.
    precision: Any = "32-true" if config.precision == "auto" else config.precision
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=device.type,
        devices=processes,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        # A random route leaves the deeper blocks of a rows step without gradients.
        strategy=DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


@contextmanager
def stop_signals() -> Iterator[dict[str, bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that the loop reads between steps; the second kills."""
    flag = {"stop": False}

    def ask(number: int, frame: Any) -> None:
        if flag["stop"]:
            raise KeyboardInterrupt
        flag["stop"] = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns the signals keeps them
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


Decision = TypeVar("Decision")


def agreed(fabric: Fabric, decision: Decision) -> Decision:
    """The first process's decision, in every process."""
    return fabric.broadcast(decision) if fabric.world_size > 1 else decision
