"""``canet-mobile demo``: the whole path on the embedded data, as the commands a user would type."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from canet_mobile import __version__
from canet_mobile.errors import CanetError
from canet_mobile.files import MANIFEST, kind_of, read_json, refuse_existing, write_json

# Enough users for figures that mean something, few enough for minutes on two cores.
EVALUATED, REPLAYED = 1000, 500


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Args:
        title: what it does, for the reader.
        arguments: the command line after ``canet-mobile``.
        result: the file or folder it makes; a step whose result is there is not done again.
    """

    title: str
    arguments: Sequence[str]
    result: Path


def steps(out: Path, settings: Sequence[str]) -> list[Step]:
    """The demo's commands, in order."""
    run, package = out / "run", out / "package"
    changes = [part for setting in settings for part in ("--set", setting)]
    limit = str(EVALUATED)
    return [
        Step("Train", ["train", "--preset", "quick", *changes, "--out", f"{run}"], run),
        Step(
            "Judge it on held-out users",
            ["evaluate", f"{run}", "--limit", limit, "--out", f"{out / 'evaluation.json'}"],
            out / "evaluation.json",
        ),
        Step(
            "Export one package with the routes that users get",
            ["export", f"{run}", "--target", "executorch", "--quantize", "int8", "--out", f"{package}"],
            package,
        ),
        Step(
            "Check it against PyTorch",
            ["parity", f"{package}", "--run", f"{run}", "--out", f"{out / 'parity.json'}"],
            out / "parity.json",
        ),
        Step(
            "Replay held-out users through the phone's runtime",
            [
                "replay",
                f"{package}",
                "--run",
                f"{run}",
                "--limit",
                str(REPLAYED),
                "--out",
                f"{out / 'replay.json'}",
            ],
            out / "replay.json",
        ),
    ]


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder: a new one, an empty one, or that of an older demo.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the training.")
@click.option(
    "--force", is_flag=True, help="Start again, deleting an older demo; nothing else is ever deleted."
)
def demo(out: Path, settings: tuple[str, ...], force: bool) -> None:
    """Train, evaluate, export, check and replay on the data set that ships with the package.

    Each step is a command you could type; it is printed before it runs. A step that is already done is kept,
    so an interrupted demo goes on where it stopped. Needs the extra canet-mobile[executorch].

    \b
    Examples:
      canet-mobile demo
      canet-mobile demo --out /tmp/demo --set epochs=1
      canet-mobile demo --force
    """
    import os

    from canet_mobile.cli.main import run as call

    refuse_existing(out, force=True, kind="demo")  # a demo that stands there goes on; nothing else is touched
    if force and kind_of(out) == "demo":
        shutil.rmtree(out)
    if not (out / MANIFEST).exists():
        about = {"schema_version": 1, "kind": "demo", "created_by": f"canet-mobile {__version__}"}
        write_json(out / MANIFEST, about)
    started = time.monotonic()
    todo = steps(out, settings)
    for number, step in enumerate(todo, start=1):
        click.secho(f"\n[{number}/{len(todo)}] {step.title}", bold=True)
        arguments = list(step.arguments)
        if step.result.exists():
            if arguments[0] != "train" or _finished(step.result):
                click.echo(f"  kept: {step.result}")
                continue
            arguments = ["train", "--resume", str(step.result)]
        click.echo(f"$ canet-mobile {shlex.join(arguments)}")
        code = call(arguments)
        if code != os.EX_OK:
            raise CanetError(
                f"step {number} ({arguments[0]}) ended with exit code {code}",
                where=out,
                fix="see the error above; the same command goes on from here",
            )
    click.echo(_summary(out, time.monotonic() - started))


def _finished(run: Path) -> bool:
    from canet_mobile.run.directory import find_run

    return find_run(run).manifest["status"] == "finished"


def _summary(out: Path, seconds: float) -> str:
    from canet_mobile.package.manifest import read_manifest
    from canet_mobile.replay.documents import read_parity_report, read_replay_report

    run = read_json(out / "run" / MANIFEST)
    replay, parity = read_replay_report(out / "replay.json"), read_parity_report(out / "parity.json")
    path = out / "package" / MANIFEST
    package = read_manifest(path, shown=path)
    size = sum(file.bytes for file in package.files) / 1e6
    latency = replay.latency_ms.total
    return "\n".join(
        [
            "",
            f"Done in {seconds / 60:.1f} minutes, {run['progress']['seconds'] / 60:.1f} of them training.",
            "",
            f"  one package      {len(package.routes)} routes and their router in {size:.1f} MB",
            f"  parity           {'passed' if parity.passed else 'FAILED'}",
            f"  on this host     {latency.p50:.2f} ms per user (p50), {latency.p99:.2f} (p99)",
            "",
            "Open:",
            f"  {out / 'evaluation.json'}      accuracy beside its references; the tables above",
            f"  {out / 'parity.json'}          every check of the package",
            f"  {out / 'replay.json'}          latency and accuracy through the runtime",
            f"  {out / 'package'}/              what an app loads",
            "",
            "Next: canet-mobile data import YOUR.csv --out datasets/yours",
            "      canet-mobile train --data datasets/yours",
        ]
    )
