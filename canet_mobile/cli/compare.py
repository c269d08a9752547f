"""`canet-mobile compare`: many methods on one data set, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from canet_mobile.errors import EXIT_ERROR, EXIT_OK


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set directory. Default: the embedded set."
)
@click.option(
    "--models",
    default="all",
    show_default=True,
    help="Comma-separated methods, groups (table, losses, spaces, granularity, recipe), "
    "sasrec-WIDTHxDEPTH[-averaged|-taught].",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs per method.")
@click.option("--budget", type=float, help="Share of SASRec-full's paper FLOPs CANet may spend.")
@click.option("--preset", default="default", show_default=True, help="quick, default or paper.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key for all methods.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Judge N test users, evenly spaced.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time, each a process."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder. Default: compare/<data>.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace a comparison on another data set in --out when the new one is done; "
    "until then that is in OUT.new.",
)
@click.option("--json", "as_json", is_flag=True, help="Print compare.json instead of the main table.")
def compare(
    data: Path | None,
    models: str,
    seeds: int,
    budget: float | None,
    preset: str,
    settings: tuple[str, ...],
    limit: int | None,
    jobs: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Train and judge every method of the paper on a data set, and tell what routing buys there.

    Writes compare.html, .md, .csv and .json: the paper's Table III for this data set, its ablations, route
    use, and paired differences between methods. Every run is kept in the folder, so the same command goes on
    after an interruption and computes only what is missing. A method that fails is reported as failed, the
    others go on, and the exit code is 1. See docs/compare.md.

    \b
    Methods: fpmc gru4rec nextitnet sasrec-full sasrec-small sasrec-same skiprec autodim
             canet-paper canet canet-u canet-g canet-ug
             canet-depth canet-embedding canet-coarse canet-fine
             canet-entropy canet-own canet-unaveraged canet-fixed canet-closed canet-untied canet-rows

    \b
    Examples:
      canet-mobile compare --preset quick --seeds 1 --jobs 2      the embedded data set, one seed
      canet-mobile compare --data shop
      canet-mobile compare --data shop --models table --budget 0.2
      canet-mobile compare --data shop --models canet,sasrec-full,sasrec-64x2 --set length=20
      canet-mobile compare --data shop --preset paper             for a GPU
    """
    from canet_mobile.compare.comparison import Plan, failed
    from canet_mobile.compare.comparison import compare as run_comparison
    from canet_mobile.compare.presets import typed_settings
    from canet_mobile.compare.tables import main_table
    from canet_mobile.data.dataset import load_dataset
    from canet_mobile.data.embedded_set import embedded_dataset
    from canet_mobile.evaluate.report import table

    changes = typed_settings(settings if budget is None else (*settings, f"budget={budget}"))
    names = [name.strip() for name in models.split(",") if name.strip()]
    dataset = load_dataset(data) if data is not None else embedded_dataset()
    document = run_comparison(
        dataset,
        Plan(names, seeds, preset, changes, limit, jobs),
        out or Path("compare") / dataset.name,
        force=force,
        say=lambda text: click.echo(text, err=True),
    )
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        shown = main_table(document)
        click.echo("\n".join([table(shown.header, shown.rows), "", *document["verdict"]]))
    return EXIT_ERROR if failed(document) else EXIT_OK
