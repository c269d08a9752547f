"""Small packages, and a device that answers by PyTorch, for the replay tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from click.testing import CliRunner, Result
from conftest import random_canet

from canet_export.measured import unmeasured_points
from canet_mobile.cli.export import export
from canet_mobile.data.dataset import Content, Dataset, write_dataset
from canet_mobile.data.split import HeldOut
from canet_mobile.files import describe_files, read_json, sha256_file, write_json
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.manifest import SCHEMA_VERSION
from canet_mobile.package.package import Package
from canet_mobile.replay.device import Answer, Device, open_device, recommend
from canet_mobile.replay.reference import exported_job, route_scores, routes_at
from canet_mobile.run.checkpoint import identity, save_weights
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import Run, new_run, save_run

ITEMS, LENGTH, K = 60, 8, 20
PROGRAM = b"\0\0\0\0ET12 not a program"  # the mark of a .pte, and nothing behind it
SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))


def toy_canet(seed: int = 0, space: RoutingSpace = SPACE) -> Canet:
    """A random model whose scores are far enough apart that no two of them tie."""
    canet = random_canet(items=ITEMS, length=LENGTH, space=space, seed=seed)
    with torch.no_grad():
        canet.supernet.classifier_weight.mul_(20)
        canet.supernet.item_table.mul_(20)
        canet.supernet.classifier_bias[0] = -1e4
        if canet.router is not None:
            canet.router.head_weight.mul_(3)
            canet.router.points.mul_(3)
    return canet


def toy_histories(n: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Histories of 3 to 14 items, ids 1..ITEMS."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, ITEMS + 1, generator.integers(3, 15)).astype(np.int32) for _ in range(n)]


def toy_queries(n: int = 40, seed: int = 0) -> HeldOut:
    """The last item of each history, held out."""
    histories = toy_histories(n, seed)
    ends = np.cumsum([len(history) for history in histories])
    starts = ends - [len(history) for history in histories]
    return HeldOut(
        np.concatenate(histories), np.arange(n), starts.astype(np.int64), (ends - 1).astype(np.int64)
    )


def golden_rows(canet: Canet, seen: str = "keep") -> list[dict[str, Any]]:
    """Two rows per route: one item, and a full history."""
    rows = []
    full = toy_queries(60).inputs(slice(None), LENGTH)
    full = full[full[:, 0] > 0]
    for number, route in enumerate(canet.space.routes):
        one = np.zeros(LENGTH, np.int32)
        one[-1] = number + 1
        for seq in (one, full[number]):
            best = route_scores(canet, seq[None], route, seen)[0].topk(K)
            rows.append(
                {
                    "input": seq.tolist(),
                    "routes": [int(routes_at(canet, seq[None], point)[0]) for point in range(len(POINTS))],
                    "entry": route.entry,
                    "scores": best.values.tolist(),
                    "ids": best.indices.tolist(),
                    "reference": "pytorch_fp32",
                }
            )
    return rows


def toy_manifest(space: RoutingSpace, **changed: Any) -> dict[str, Any]:
    """A manifest without ``files`` and ``item_map_sha256``, which :func:`refresh` writes."""
    routes = [
        {
            "id": number,
            "entry": route.entry,
            "embedding": route.embedding,
            "hidden": route.hidden,
            "depth": route.depth,
            "paper_mflops": 1.0 + number,
            "executed_mflops": 0.5 + number,
            "shorter": [],
        }
        for number, route in enumerate(space.routes)
    ]
    sizes = (
        "total",
        "item_table",
        "classifier",
        "layers",
        "router",
        "graph",
        "full_model_alone",
        "separate_files",
    )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "package",
        "name": "toy",
        "created_by": "canet-mobile 0.1.0",
        "target": "executorch",
        "quantization": "fp32",
        "model_file": "canet.pte",
        "exporter": {"executorch": "1.5.1", "torch": "2.13.0"},
        "minimum_os": {"android": "API 23", "ios": "17.0"},
        "files": [],
        "input": {"name": "seq", "shape": [1, LENGTH], "dtype": "int32", "padding": "left", "pad_id": 0},
        "outputs": {
            "router": {"route": {"shape": [1], "dtype": "int64"}},
            "route": {
                "scores": {"shape": [1, K], "dtype": "float32"},
                "ids": {"shape": [1, K], "dtype": "int64"},
            },
        },
        "items": ITEMS,
        "length": LENGTH,
        "lengths": [LENGTH],
        "k": K,
        "seen": "keep",
        "space": space.to_json(),
        "router": {
            "entry": "router",
            "table": "shared",
            "paper_mflops": 0.1,
            "executed_mflops": 0.1,
            "shorter": [],
        },
        "routes": routes,
        "operating_points": unmeasured_points(),
        "default_point": "balanced",
        "interface": {"style": "entries", "point_input": "point"},
        "runtime": {"name": "ExecuTorch", "minimum": "1.5.0"},
        "parts": [],
        "integers": None,
        "sizes": {f"{name}_bytes": 1000 for name in sizes},
        "delegation": [
            {"entry": route["entry"], "partitions": 1, "undelegated": {"aten.topk.default": 1}}
            for route in routes
        ],
        "item_map_sha256": "",
        "dataset": {"name": "toy", "content_hash": "0" * 64},
        "checkpoint": {"sha256": "1" * 64},
        "accuracy": None,
    }
    return {**manifest, **changed}


def refresh(directory: Path, **changed: Any) -> None:
    """Make the manifest agree with the files again, as somebody who hides a change would."""
    manifest = {**read_json(directory / "manifest.json"), **changed}
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    names = sorted(name for name in files if name != "manifest.json")
    manifest["files"] = describe_files(directory, names)
    manifest["item_map_sha256"] = sha256_file(directory / "items.csv")
    write_json(directory / "manifest.json", manifest)


def write_package(directory: Path, canet: Canet, program: bytes = PROGRAM, **changed: Any) -> Path:
    """A package directory; its program need not be one where a :func:`torch_device` runs it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "canet.pte").write_bytes(program)
    titles = [f'{n},item-{n},"a, ""quoted"" title {n}"' for n in range(1, ITEMS + 1)]
    (directory / "items.csv").write_text("\n".join(["index,item_id,title", *titles]) + "\n", encoding="utf-8")
    rows = golden_rows(canet, changed.get("seen", "keep"))
    (directory / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_json(directory / "manifest.json", toy_manifest(canet.space, **changed))
    refresh(directory)
    return directory


@dataclass(frozen=True)
class World:
    """A model, its dataset, its run, and a package of that run."""

    canet: Canet
    dataset: Path
    run: Path
    package: Path

    def copy(self, directory: Path) -> Path:
        """A copy of the package that a test may spoil."""
        return Path(shutil.copytree(self.package, directory / "copy"))


def invoke(command: Any, *arguments: object) -> Result:
    """Call a command of the command line."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def exported_to(target: str, run: Path, out: Path, *options: object) -> Path:
    """A package of a run, by the command line, with lists of 10: of every route unless some are chosen."""
    chosen = () if {"--routes", "--route", "--max-mflops"} & set(options) else ("--routes", "all")
    result = invoke(export, run, "--target", target, "--k", 10, "--out", out, *chosen, *options)
    assert result.exit_code == 0, (result.exception, result.output)
    return out


def exported_world(root: Path, target: str) -> World:
    """A run of the toy model, and its package with every route in int8."""
    canet = toy_canet()
    dataset = toy_dataset(root / "dataset")
    run = toy_run(root / "run", dataset, canet)
    return World(
        canet, dataset.directory, run.directory, exported_to(target, run.directory, root / "package")
    )


Outputs = tuple[np.ndarray, ...]


def torch_device(
    package: Package,
    canet: Canet,
    change: Callable[[str, np.ndarray, Outputs], Outputs] | None = None,
    asked: Callable[[int], int] = lambda point: point,
) -> Device:
    """A device that answers by PyTorch; ``change(entry, seq, outputs)`` may spoil its answers.

    ``asked(point)`` is the operating point that its router takes for ``point``: another one spoils it too.
    """

    def call(entry: str, seq: np.ndarray, point: int) -> Answer:
        if entry == "router":
            outputs: Outputs = (routes_at(canet, seq[None], asked(point)),)
        else:
            seen = package.manifest.seen
            best = route_scores(canet, seq[None], canet.space.named(entry), seen).topk(package.k)
            outputs = (best.values.numpy(), best.indices.numpy())
        return Answer(outputs if change is None else change(entry, seq, outputs), 1_000_000)

    return Device("host", "PyTorch", 1, 0.5, lambda entry: 2.0, call)


def toy_dataset(directory: Path, n: int = 40, seed: int = 0) -> Dataset:
    """A dataset folder of :func:`toy_histories`; its test split is :func:`toy_queries`."""
    histories = toy_histories(n, seed)
    content = Content(
        offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
        items=np.concatenate(histories),
        times=None,
        user_ids=pl.Series([f"u{number}" for number in range(n)]),
        item_ids=pl.Series([f"item-{number}" for number in range(1, ITEMS + 1)]),
        titles=pl.Series([None] * ITEMS, dtype=pl.String),
        users=n,
    )
    interactions = len(content.items)
    about = {
        "name": "toy",
        "sources": [{"name": "toy.csv", "bytes": 1, "sha256": "2" * 64}],
        "format": "csv",
        "columns": {"user": "user", "item": "item", "time": None, "title": None},
        "time_unit": None,
        "options": {"min_item_count": 1, "min_history": 3, "session_length": None, "session_gap_s": None},
        "stages": {
            "read": interactions,
            "dropped_sessions": 0,
            "dropped_rare_items": 0,
            "dropped_short_histories": 0,
            "rounds": 1,
            "kept": interactions,
        },
    }
    return write_dataset(directory, content, about)


def toy_run(directory: Path, dataset: Dataset, canet: Canet) -> Run:
    """A finished run whose checkpoint is ``canet``."""
    space = canet.space
    config = TrainConfig(
        embedding=space.embedding,
        hidden=space.hidden,
        depth=space.depth,
        length=LENGTH,
        router_table="shared",
    )
    run = new_run(directory, config, dataset, force=False)
    save_weights(directory / "model.safetensors", canet, identity(config, dataset.content_hash))
    run.manifest["checkpoints"] = {"model": describe_files(directory, ["model.safetensors"])[0]}
    run.manifest["status"] = "finished"
    save_run(run)
    return run


def require_points_of_pytorch(package: Package, canet: Canet, seqs: np.ndarray) -> None:
    """Every history [n, L] takes PyTorch's route at every operating point, and no two points route alike."""
    device, same = open_device(package), exported_job(package, canet).reference
    chosen = set()
    for point in range(len(POINTS)):
        routes = [recommend(device, package, seq, point).route for seq in seqs]
        assert routes == routes_at(same, seqs, point).tolist()
        chosen.add(tuple(routes))
    assert len(chosen) == len(POINTS)
