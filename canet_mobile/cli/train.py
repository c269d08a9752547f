"""``canet-mobile train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from canet_mobile.errors import UsageError, quoted

NEVER_STOPS_BEST = "the best epoch is the last one: more epochs would probably help"


@click.command("train")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set directory. Default: the embedded set."
)
@click.option(
    "--model",
    default="canet",
    show_default=True,
    metavar="NAME",
    help="canet; sasrec; fpmc, gru4rec, nextitnet, skiprec, autodim; a variant: canet-u, sasrec-small, ...",
)
@click.option("--preset", default="default", show_default=True, help="default, quick, paper or long.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="TOML file of configuration keys."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one key; repeatable.")
@click.option("--width", type=int, help="Width of a SASRec (default 128).")
@click.option("--depth", type=int, help="Blocks of a SASRec (default 8).")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run directory. Default: runs/<data>-<model>-<n>."
)
@click.option("--resume", "resumed", type=click.Path(path_type=Path), help="Go on with an interrupted run.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace the run that stands at --out when the new one is finished; until then that is in OUT.new.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the run's manifest as JSON.")
def train(
    data: Path | None,
    model: str,
    preset: str,
    config_file: Path | None,
    settings: tuple[str, ...],
    width: int | None,
    depth: int | None,
    out: Path | None,
    resumed: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a model; the run directory holds everything later commands need.

    Keys of the configuration (see docs/training.md) come from the preset, then the --config file, then each
    --set. Ctrl-C saves the state; --resume goes on to the same result as an uninterrupted run.

    \b
    Examples:
      canet-mobile train                                   the embedded data set, default recipe
      canet-mobile train --preset quick                    minutes on two cores
      canet-mobile train --data shop --set epochs=12 --set batch=128
      canet-mobile train --data shop --preset paper        the paper's joint losses
      canet-mobile train --model sasrec --width 64 --depth 2
      canet-mobile train --model gru4rec                   a compared method; see docs/baselines.md
      canet-mobile train --model canet-u --preset paper    the paper's recipe without its uniform loss
      canet-mobile train --resume runs/latest
      torchrun --nproc-per-node 2 -m canet_mobile train    several processes (DDP)
    """
    from canet_mobile.cli.progress import TrainReporter
    from canet_mobile.places import RUNS
    from canet_mobile.run.directory import find_run, open_dataset
    from canet_mobile.run.presets import build_config
    from canet_mobile.train import trainer

    if resumed is not None:
        if settings or config_file or width or depth or preset != "default" or model != "canet":
            raise UsageError(
                "a resumed run keeps its own configuration", fix="drop every option but --resume and --data"
            )
        run = find_run(resumed)
        dataset = open_dataset(run, data)
        with TrainReporter(run.config) as reporter:
            run = trainer.resume(run, dataset, reporter=reporter)
    else:
        config = build_config(
            preset=preset, model=model, file=config_file, settings=settings, width=width, depth=depth
        )
        dataset = _dataset(data)
        directory = out or free_name(RUNS, f"{dataset.name}-{_label(model, config)}")
        with TrainReporter(config) as reporter:
            run = trainer.train(config, dataset, directory, force=force, reporter=reporter)
    if not _is_main_process():
        return
    click.echo(json.dumps(run.manifest, indent=2) if as_json else summary(run))


def _is_main_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _dataset(directory: Path | None) -> Any:
    from canet_mobile.data.dataset import load_dataset
    from canet_mobile.data.embedded_set import embedded_dataset

    return load_dataset(directory) if directory is not None else embedded_dataset()


def _label(name: str, config: Any) -> str:
    from canet_mobile.run.config import SASREC_RECIPES

    if name == "sasrec":
        size = f"sasrec-{config.hidden[0]}x{config.depth[0]}"
        return f"{size}-{config.recipe}" if config.recipe in SASREC_RECIPES else size
    return f"canet-{config.recipe}" if name == "canet" else name


def free_name(parent: Path, stem: str) -> Path:
    """``<stem>-1``, or the first number that is free."""
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


def summary(run: Any) -> str:
    """What a finished run came to, for people."""
    from canet_mobile.routing.advice import sentence

    progress, routing = run.manifest["progress"], run.manifest["routing"]
    lines = [f"run            {run.directory}"]
    lines.append(
        f"validation     NDCG@10 {progress['best_ndcg10']:.4f} (seen={run.config.seen}), best epoch "
        f"{progress['best_epoch'] + 1} of {progress['epoch']}, stopped by {progress['stopped_by']}"
    )
    if progress["best_epoch"] + 1 == progress["epoch"] and progress["epoch"] > 1:
        lines.append(f"               {NEVER_STOPS_BEST}")
    if polished := run.manifest.get("polish"):
        gained = f"{polished['gain']['value']:+.4f} ± {polished['gain']['se']:.4f} NDCG@10"
        kept = "kept" if polished["kept"] else "not kept"
        lines.append(f"polished       {gained} on {polished['users']:,} validation users, {kept}")
    if routing:
        found = routing["validation"]
        shares = ", ".join(f"{entry} {share:.0%}" for entry, share in found["routes"].items())
        lines.append(
            f"routed         NDCG@10 {found['ndcg10']:.4f} at {found['mflops']:.1f} paper MFLOPs: {shares}"
        )
        for point in routing.get("operating_points", ()):
            spread = ", ".join(f"{entry} {share:.0%}" for entry, share in point["routes"].items())
            what = f"NDCG@10 {point['ndcg10']:.4f} at {point['mflops']:.1f} MFLOPs"
            lines.append(f"  {point['name']:<12} {what}: {spread}")
        if routing.get("advice"):
            lines.append(f"advice         {sentence(routing['advice'])}")
    lines.append(f"training time  {progress['seconds'] / 60:.1f} min")
    lines.append(f"next           canet-mobile evaluate {quoted(run.directory)}")
    return "\n".join(lines)
