"""The run directory: one folder per training, described by its manifest.

    runs/<name>/manifest.json    configuration, data set, status, progress, which checkpoint files count
                config.toml      the effective configuration, ready for --config
                metrics.jsonl    one line per epoch
                *.safetensors    weights; trainer-*.pt the state that --resume needs
    runs/latest                  the newest run's name

The manifest is written after the files it names, so a killed run always points at whole files. A run that is
to replace an older one is made in <name>.new beside it and takes its place when it is finished.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch

from canet_mobile import __version__
from canet_mobile.data.dataset import Dataset, load_dataset
from canet_mobile.errors import CanetError, quoted
from canet_mobile.files import (
    MANIFEST,
    REPLACES,
    place_for,
    read_json,
    refuse_existing,
    take_place,
    verify_files,
    write_json,
    write_text,
)
from canet_mobile.machine import describe_machine
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model
from canet_mobile.places import RUNS, dataset_places, find_dataset, listed
from canet_mobile.run.checkpoint import build_any, identity, load_weights
from canet_mobile.run.config import BASELINES, BEFORE, TrainConfig, apply
from canet_mobile.schema import validate

LATEST = "latest"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """A run directory and its manifest as read."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's own name."""
        return self.manifest["name"]

    @property
    def model_name(self) -> str:
        """``canet``, ``sasrec`` or a compared method."""
        return self.manifest["config"]["model"]

    @property
    def config(self) -> TrainConfig:
        """The configuration it was trained with."""
        return apply(TrainConfig(), {**BEFORE, **self.manifest["config"]}, where=self.directory / MANIFEST)

    @property
    def dataset_directory(self) -> Path:
        """Where the data set was when the run began; the manifest tells it from the run's folder on."""
        return Path(os.path.normpath(self.directory.resolve() / self.manifest["dataset"]["directory"]))

    @property
    def dataset_hash(self) -> str:
        """Content hash of the data set it was trained on."""
        return self.manifest["dataset"]["content_hash"]

    @property
    def checkpoint_sha256(self) -> str:
        """SHA-256 of the finished model's weights."""
        return self._finished()["sha256"]

    def _finished(self) -> dict[str, Any]:
        model = self.manifest["checkpoints"].get("model")
        if model is None:
            raise CanetError(
                f"this run is {self.manifest['status']} and has no finished model yet",
                where=self.directory,
                fix=f"canet-mobile train --resume {quoted(self.directory)}",
            )
        return model


def machine() -> dict[str, Any]:
    """What a training ran on: the machine, PyTorch, its threads and the GPU, if any."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {**describe_machine(), "torch": torch.__version__, "threads": torch.get_num_threads(), "gpu": gpu}


def new_run(
    directory: Path, config: TrainConfig, dataset: Dataset, *, force: bool, name: str | None = None
) -> Run:
    """Create a run directory with everything that is known before the first step.

    Args:
        directory: the folder to make.
        config, dataset: what is trained, on what.
        force: replace an older run that stands there, when this one is finished (:func:`finish_run`).
        name: of the run, where the folder is renamed later; None takes the folder's.

    Returns:
        The run; its directory is ``<directory>.new`` while an older run stands at ``directory``.

    Raises:
        CanetError: the directory exists and ``force`` is not given, or cannot be written.
    """
    name = name or directory.name
    if name == LATEST:
        raise CanetError(
            f"{LATEST} is the link to the newest run", where=directory, fix="choose another name with --out"
        )
    place = place_for(directory, force=force, kind="run")
    if place.exists():
        shutil.rmtree(place)
    manifest = {
        "schema_version": 1,
        "kind": "run",
        "name": name,
        **({} if place == directory else {REPLACES: directory.name}),
        "created_by": f"canet-mobile {__version__}",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "running",
        "config": config.to_json(),
        "dataset": {
            "name": dataset.name,
            "directory": _from(place, dataset.directory),
            "content_hash": dataset.content_hash,
            "items": dataset.num_items,
            "histories": dataset.num_histories,
        },
        "machine": machine(),
        "progress": {
            "epoch": 0,
            "step": 0,
            "best_epoch": None,
            "best_ndcg10": None,
            "seconds": 0.0,
            "stopped_by": None,
        },
        "checkpoints": {},
        "routing": None,
    }
    run = Run(place, manifest)
    save_run(run)
    write_text(place / "config.toml", tomli_w.dumps(config.to_json()))
    return run


def _from(directory: Path, target: Path) -> str:
    """How to get from a run's folder to its data set: together they can be moved, and name no user or machine
    as long as one project holds both."""
    try:
        return Path(os.path.relpath(target.resolve(), directory.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return str(target.resolve())


def finish_run(run: Run) -> Run:
    """Give a finished run the place of the one that it replaces, if any, which is deleted then.

    Raises:
        CanetError: something else than a run stands there by now; the finished run stays where it is.
    """
    if REPLACES not in run.manifest:
        return run
    place = run.directory.with_name(run.manifest[REPLACES])
    refuse_existing(place, force=True, kind="run")
    del run.manifest[REPLACES]
    save_run(run)
    take_place(run.directory, place)
    point_latest(place)
    return find_run(place)


def save_run(run: Run) -> None:
    """Write the manifest, then delete checkpoint files it no longer names."""
    path = run.directory / MANIFEST
    validate(run.manifest, "run", where=path)
    write_json(path, run.manifest)
    named = {entry["name"] for entry in run.manifest["checkpoints"].values()}
    for file in (*run.directory.glob("*.safetensors"), *run.directory.glob("trainer-*.pt")):
        if file.name not in named:
            file.unlink()


def point_latest(directory: Path) -> None:
    """Make ``latest`` beside the run name it; a relative link, or a text file where links cannot be made."""
    link = directory.parent / LATEST
    temporary = directory.parent / f".{LATEST}.{os.getpid()}"
    try:
        temporary.symlink_to(directory.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
        write_text(link, directory.name + "\n")


def find_run(path: Path | None = None) -> Run:
    """Open a run directory; None opens the newest.

    Raises:
        CanetError: there is none, or the folder is not a run.
    """
    directory = path if path is not None else RUNS / LATEST
    if directory.is_file() and directory.name == LATEST:
        directory = directory.parent / directory.read_text(encoding="utf-8").strip()
    manifest_path = directory / MANIFEST
    if not manifest_path.is_file():
        if path is None:
            raise CanetError("there is no run yet", where=RUNS, fix="canet-mobile train")
        raise CanetError(
            f"is not a run directory (no {MANIFEST})", where=path, fix="name a folder that `train` made"
        )
    manifest = read_json(manifest_path)
    if isinstance(manifest, dict) and manifest.get("kind") != "run":
        raise CanetError(
            f"is a {manifest.get('kind')}, not a run", where=directory, fix="name a run directory"
        )
    validate(manifest, "run", where=manifest_path)
    return Run(directory.resolve() if directory.is_symlink() else directory, manifest)


def open_dataset(run: Run, override: Path | None = None) -> Dataset:
    """The data set a run was trained on, wherever it is now.

    Raises:
        CanetError: it is not there, or ``override`` holds another data set.
    """
    directory = override or run.dataset_directory
    if override is None and not directory.is_dir():
        places = dataset_places(run.directory)
        found = find_dataset(run.dataset_hash, places)
        if found is None:
            raise CanetError(
                f"the run's data set is no longer here, and none with its content hash "
                f"{run.dataset_hash[:12]}… is in {listed(places)}",
                where=directory,
                fix="name its new place with --data DIR",
            )
        directory = found
    dataset = load_dataset(directory)
    if dataset.content_hash != run.dataset_hash:
        raise CanetError(
            f"content hash {dataset.content_hash[:12]}… is not that of the data set the run was trained on "
            f"({run.dataset_hash[:12]}…)",
            where=directory,
            fix="name the data set of the run with --data DIR",
        )
    return dataset


def load_model(run: Run) -> Model:
    """The finished model or compared method in eval mode on the CPU, its checksum verified first.

    Raises:
        CanetError: the run is unfinished, or its checkpoint is truncated, altered or of another space.
    """
    entry = run._finished()
    verify_files(run.directory, [entry])
    config = run.config
    dataset = run.manifest["dataset"]
    model = build_any(config, dataset["items"], dataset.get("histories", 0))
    load_weights(run.directory / entry["name"], model, identity(config, run.dataset_hash))
    model.eval()
    return model


def load_canet(run: Run) -> Canet:
    """The finished CANet or SASRec: what packages are made from and checked against.

    Raises:
        CanetError: the run is of a compared method, which has no package; or as :func:`load_model`.
    """
    refuse_baseline(run)
    model = load_model(run)
    assert isinstance(model, Canet)
    return model


def refuse_baseline(run: Run) -> None:
    """Refuse a run that cannot become a package.

    Raises:
        CanetError: the run is of a compared method.
    """
    if run.model_name in BASELINES:
        raise CanetError(
            f"is a {run.model_name} run; only canet and sasrec can be exported",
            where=run.directory,
            fix="name a run of canet or sasrec; a compared method is there to be evaluated",
        )
