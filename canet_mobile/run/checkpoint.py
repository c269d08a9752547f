"""Weights on disk: safetensors for what is shipped, a separately loaded file for the trainer's state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from canet_mobile.errors import CanetError
from canet_mobile.files import atomic_file
from canet_mobile.model.canet import Canet
from canet_mobile.model.compared.autodim import AutoDim
from canet_mobile.model.compared.fpmc import FPMC
from canet_mobile.model.compared.gru4rec import GRU4Rec
from canet_mobile.model.compared.nextitnet import NextItNet
from canet_mobile.model.compared.skiprec import SkipRec
from canet_mobile.model.recommender import Model, Recommender, parts_of
from canet_mobile.model.router import ROUTER_WIDTH, Router, RouterConfig
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.run.config import TrainConfig

# (configuration, number of items, number of histories) -> an untrained method; keys are config.BASELINES.
_METHODS: dict[str, Callable[[TrainConfig, int, int], Recommender]] = {
    "fpmc": FPMC,
    "gru4rec": GRU4Rec,
    "nextitnet": NextItNet,
    "skiprec": SkipRec,
    "autodim": AutoDim,
}


def build_any(config: TrainConfig, items: int, users: int) -> Model:
    """An untrained model or compared method of a configuration; the caller seeds PyTorch first.

    Args:
        config: what to build.
        items: number of items V.
        users: number of histories; only FPMC's size depends on it.
    """
    method = _METHODS.get(config.model)
    return method(config, items, users) if method else build_model(config, items)


def build_model(config: TrainConfig, items: int) -> Canet:
    """An untrained CANet or SASRec of a configuration; the caller seeds PyTorch first."""
    space = config.space
    sizes = SupernetConfig(
        items,
        config.length,
        space,
        config.dropout,
        in_projection=config.model == "canet",
        tied=config.is_tied,
        residual=config.residual,
        residual_power=config.residual_power,
    )
    supernet = Supernet(sizes)
    if config.model == "sasrec":
        return Canet(supernet, None)
    width = min(ROUTER_WIDTH, space.embedding[0] // 4 * 4)
    table: Any = config.router_table
    return Canet(supernet, Router(RouterConfig(items, config.length, len(space), table, width=width)))


def identity(config: TrainConfig, dataset_hash: str) -> dict[str, str]:
    """What a checkpoint belongs to: stored in its header and compared before it is loaded."""
    space = json.dumps(config.space.to_json())
    return {"format": "canet-mobile 1", "model": config.model, "space": space, "dataset": dataset_hash}


def save_weights(path: Path, model: Model, header: dict[str, str]) -> None:
    """Write all tensors atomically: ``supernet.*`` and ``router.*``; ``model.*`` of a compared method.

    Equal weights and an equal header are equal bytes, in every process.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{name}": tensor.detach().float().cpu().contiguous()
        for part, module in parts_of(model).items()
        for name, tensor in module.state_dict().items()
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in the order of their names; safetensors writes them in a random one.

    The file is 8 bytes that tell the length of its header, the header in JSON, padded with blanks, and the
    tensors, which stay where they are.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(ordered) == size, "another order is no other length"
        file.seek(8)
        file.write(ordered)


def load_weights(path: Path, model: Model, header: dict[str, str]) -> None:
    """Load parameters into a model built from the same configuration.

    Raises:
        CanetError: the file is no checkpoint, is truncated, or belongs to another space or data set.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CanetError(
            f"not a readable checkpoint ({error})", where=path, fix="train again, or restore the file"
        ) from error
    for field, expected in header.items():
        if found.get(field) != expected:
            raise CanetError(
                f"is a checkpoint of another {field}: {found.get(field)!r}, expected {expected!r}",
                where=path,
                fix="use the checkpoint of this run",
            )
    for part, module in parts_of(model).items():
        prefix = f"{part}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise CanetError(f"does not fit the model ({error})", where=path) from error


def save_trainer_state(path: Path, state: dict[str, Any]) -> None:
    """Write optimizer and loop state (tensors and plain values only) atomically."""
    # Into an open file: into a path, torch.save would write that path's random name, too.
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_trainer_state(path: Path) -> dict[str, Any]:
    """Read a trainer state; only tensors and plain values are accepted, never code.

    Raises:
        CanetError: the file is no trainer state or is truncated.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CanetError(
            f"not a readable trainer state ({type(error).__name__}: {error})",
            where=path,
            fix="start a new run; the model weights of this one may still be usable",
        ) from error
