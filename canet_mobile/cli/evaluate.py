"""`canet-mobile evaluate`: accuracy, floors, routing references and costs of a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--data", type=click.Path(path_type=Path), help="The run's data set, if it was moved.")
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option(
    "--routes",
    type=click.Choice(["all", "routed"]),
    default="all",
    show_default=True,
    help="all ranks with every route too, to compare with fixed and random routing; routed is quick.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Judge N users, evenly spaced.")
@click.option(
    "--accelerator",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where PyTorch sees one.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print schemas/evaluation.schema.json instead of tables."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write the JSON document here; only an older one is replaced.",
)
def evaluate(
    run: Path | None,
    data: Path | None,
    split: str,
    routes: str,
    limit: int | None,
    accelerator: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Judge the model of a RUN directory (default: runs/latest) on held-out items.

    Both seen protocols, the popularity and Markov floors, the best fixed route at the same cost (chosen on
    validation), random routing with the same histogram, head and tail users, both costs, and accuracy and
    cost at every operating point. A full evaluation (all routes, all users) is saved as
    evaluation-<split>.json in the run directory.

    \b
    Examples:
      canet-mobile evaluate
      canet-mobile evaluate runs/first --routes routed --limit 2000
      canet-mobile evaluate runs/first --split validation --json --out validation.json
    """
    from canet_mobile.accelerator import choose_device
    from canet_mobile.evaluate.evaluation import evaluate_model, save_evaluation
    from canet_mobile.evaluate.report import evaluation_text
    from canet_mobile.files import refuse_file, write_json
    from canet_mobile.model.recommender import move
    from canet_mobile.run.directory import find_run, load_model, open_dataset

    refuse_file(out, kind="evaluation")
    found = find_run(run)
    dataset = open_dataset(found, data)
    model = move(load_model(found), choose_device(accelerator))
    with _progress() as report:
        document = evaluate_model(model, dataset, split, limit, routes=routes, report=report)  # type: ignore[arg-type]
    document["run"] = {"name": found.name, "checkpoint_sha256": found.checkpoint_sha256}
    saved = save_evaluation(found.directory, document)
    if out is not None:
        write_json(out, document)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else evaluation_text(document))
    for path in (saved, out):
        if path is not None:
            click.echo(f"saved {path}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr per stage of an evaluation."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield report
