"""How much work a comparison gives each method: presets, and what all its methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canet_mobile.errors import UsageError, unknown_name
from canet_mobile.run.config import TrainConfig, apply
from canet_mobile.run.presets import build_config

# Blocks that start nearly closed, and Adam's usual memory: the start that learns faster in a few epochs.
CLOSED: Mapping[str, Any] = {"residual": 0.1, "residual_power": 0.0, "beta2": 0.999}


@dataclass(frozen=True)
class Preset:
    """How much work each method gets.

    Args:
        changes: configuration keys, the same for every method.
        limit: test users to judge, evenly spaced; None for all.
        about: what it is for.
    """

    changes: Mapping[str, Any]
    limit: int | None
    about: str


PRESETS = {
    "quick": Preset(
        {
            "windows": 1,
            "epochs": 3,
            "batch": 48,
            "lr": 4e-3,
            "warmup_steps": 30,
            **CLOSED,
            "cooccurrence": 0.0,
            "prior": "popularity",
            "validation_users": 1000,
        },
        2000,
        "every method once on two cores and a small data set; most runs are cut short",
    ),
    "default": Preset({}, 25_000, "`train`'s own defaults; a small data set in a CPU afternoon"),
    "paper": Preset(
        {"epochs": 100, "patience": 10, "batch": 256, "lr": 1e-3, "validation_users": 0},
        None,
        "the paper's learning rate, until validation stops improving; for a GPU",
    ),
}


def typed_settings(settings: Sequence[str]) -> dict[str, Any]:
    """The keys that ``key=value`` strings change, with values of their type.

    Raises:
        UsageError: a key does not exist, a value is out of range, or the method itself decides the key.
    """
    names = [setting.partition("=")[0].strip() for setting in settings]
    for name in names:
        if name in ("model", "seed"):
            fix = {"model": "--models", "seed": "--seeds N runs seeds 0 to N - 1"}[name]
            raise UsageError(f"{name} is not the same for all methods", where="--set", fix=fix)
    typed = build_config(settings=tuple(settings)).to_json()
    return {name: typed[name] for name in names}


def base_config(preset: str, settings: Mapping[str, Any]) -> TrainConfig:
    """What all methods share: defaults, then the preset, then ``--set``.

    Raises:
        UsageError: the preset, a key or a value does not exist.
    """
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    return apply(TrainConfig(), {**PRESETS[preset].changes, **settings}, where="--set")
