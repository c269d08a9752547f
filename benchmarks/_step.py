"""One training step as the trainer does it, and a fair way to time several on a busy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from canet_mobile.model import losses
from canet_mobile.model.supernet import Supernet
from canet_mobile.run.checkpoint import build_model
from canet_mobile.run.config import TrainConfig
from canet_mobile.train import objectives

Found = dict[str, dict[str, Any]]
Size = tuple[int, int, int]  # batch, length, items
STEPS_PER_EPOCH = 1000  # what the average of the weights counts in; no matter for its time


def sasrec(width: int, depth: int) -> dict[str, Any]:
    """Configuration keys of a plain SASRec."""
    return {"model": "sasrec", "embedding": (width,), "hidden": (width,), "depth": (depth,)}


class Step:
    """One training step of a configuration, as the trainer does it: forward, backward, clip, Adam."""

    def __init__(self, config: TrainConfig, items: int, device: str) -> None:
        torch.manual_seed(0)
        self.config, self.device, self.canet = config, device, build_model(config, items)
        self.objective = objectives.Objective(self.canet, config).to(device)
        self.parameters = [weight for weight in self.objective.parameters() if weight.requires_grad]
        self.steps = 0
        self.optimizer = torch.optim.Adam(self.parameters, config.lr, fused=True)

    def __call__(self, seq: Tensor, targets: Tensor, seed: int) -> float:
        loss = self.objective(seq, targets, seed)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.objective.follow(self.steps, STEPS_PER_EPOCH)
        return loss.item()

    def loss_share(self, seq: Tensor, targets: Tensor, seed: int) -> float:
        """Time of the catalogue loss alone, forward and backward, as a share of the step's."""
        real_loss = losses.sandwich_loss
        with (
            mock.patch.object(losses, "sandwich_loss", wraps=real_loss) as spy,
            mock.patch.object(objectives, "sandwich_loss", spy),
        ):
            whole = seconds(partial(self, seq, targets, seed), self.device)
        net, alone = self.canet.supernet, 0.0
        for call in spy.call_args_list:
            states = [state.detach().requires_grad_() for state in call.args[1]]
            real = targets.flatten()[: len(states[0])]
            alone += seconds(
                partial(differentiate, partial(_first, net, states, real, *call.args[3:]), net),
                self.device,
            )
        return alone / whole


def _first(
    net: Supernet, states: list[Tensor], targets: Tensor, teacher: losses.Teacher | None = None
) -> Tensor:
    return losses.sandwich_loss(net, states, targets, teacher)[0]


def random_batch(size: Size, device: str) -> tuple[Tensor, Tensor]:
    """Full windows of random items and their targets, [batch, length] int64."""
    batch, length, items = size
    both = torch.randint(1, items + 1, (2, batch, length), generator=torch.Generator().manual_seed(0))
    return both[0].to(device), both[1].to(device)


def differentiate(loss: Callable[[], Tensor], net: Supernet) -> None:
    """Forward and backward; no gradient is kept."""
    loss().backward()
    net.zero_grad(set_to_none=True)


def seconds(action: Callable[[], Any], device: str) -> float:
    """Wall-clock time of an action, the accelerator's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def take_turns(candidates: dict[str, Callable[[int], Any]], rounds: int, device: str) -> Found:
    """Milliseconds of each candidate and its ratio to the first one; round 0 warms up, uncounted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, action in candidates.items():
            times[name].append(seconds(partial(action, number), device))
    reference = next(iter(times.values()))
    found: Found = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values[1:], reference[1:], strict=True)]
        found[name] = {
            "ms": round(1000 * statistics.median(values[1:]), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return found
