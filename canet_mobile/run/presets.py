"""From a preset, a model's name, a TOML file and key=value settings to one configuration."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from canet_mobile.errors import UsageError, nearest, unknown_name
from canet_mobile.run.config import KEYS, MODELS, TrainConfig, apply


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Name -> changed keys, from the file that ships beside this module."""
    return tomllib.loads((resources.files("canet_mobile.run") / "presets.toml").read_text("utf-8"))


@cache
def variants() -> dict[str, dict[str, Any]]:
    """Name -> pinned keys of the paper's variants, from the file that ships beside this module."""
    return tomllib.loads((resources.files("canet_mobile.run") / "variants.toml").read_text("utf-8"))


def build_config(
    *,
    preset: str = "default",
    model: str = "canet",
    file: Path | None = None,
    settings: tuple[str, ...] = (),
    width: int | None = None,
    depth: int | None = None,
) -> TrainConfig:
    """Defaults, then the preset, the model, the TOML file, and each ``key=value``; a later one wins.

    Args:
        preset: a name in presets.toml.
        model: a value of ``TrainConfig.model``, or a name in variants.toml.
        file: TOML with keys of :class:`TrainConfig`.
        settings: ``key=value`` strings.
        width, depth: size of a SASRec (default 128 × 8); refused for any other model.
    """
    if preset not in presets():
        raise unknown_name("preset", preset, presets())
    if model not in (*MODELS, *variants()):
        raise unknown_name("model", model, (*MODELS, *variants()))
    changes: dict[str, Any] = variants().get(model, {"model": model})
    if model == "sasrec":
        changes |= {"embedding": [width or 128], "hidden": [width or 128], "depth": [depth or 8]}
    elif width is not None or depth is not None:
        raise UsageError(
            "--width and --depth size a SASRec",
            fix="add --model sasrec, or --set hidden=64,96 --set depth=2,4",
        )
    config = apply(TrainConfig(), presets()[preset] | changes)
    if file is not None:
        config = apply(config, _read_toml(file), where=file)
    return apply(config, parse_settings(settings), where="--set")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError("no such file", where=file) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"not valid TOML ({error})", where=file) from error


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` strings as a dictionary.

    Raises:
        UsageError: one has no equals sign.
    """
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            guess = nearest(key, KEYS) or "lr"
            raise UsageError(f"{setting!r} is not key=value", where="--set", fix=f"--set {guess}=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs
