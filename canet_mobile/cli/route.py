"""`canet-mobile route`: a new router, budget or unit of cost for a trained supernet."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Run to make [default: <run>-routed-N].")
@click.option("--budget", type=float, metavar="SHARE", help="Average cost, as a share of SASRec-full's.")
@click.option(
    "--costs",
    metavar="FILE",
    help="What each route was measured to cost on a device; the budget is then a share of the largest's. "
    "'paper': paper MFLOPs again.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any of the router's configuration keys."
)
@click.option("--data", type=click.Path(path_type=Path), help="The run's data set, if it was moved.")
@click.option(
    "--force", is_flag=True, help="Replace the run that stands at --out; nothing else is ever replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Print the new run's manifest as JSON.")
def route(
    run: Path | None,
    out: Path | None,
    budget: float | None,
    costs: str | None,
    settings: tuple[str, ...],
    data: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Fit a new router to the supernet of a RUN directory (default: runs/latest).

    The supernet is not trained again, so this takes seconds to minutes. The new run holds the same submodels,
    a router, and the operating points saver, balanced and best; it is evaluated and exported like any other.

    \b
    Examples:
      canet-mobile route --budget 0.15
      canet-mobile route runs/shop --costs phone.json --budget 0.4 --out runs/shop-phone
      canet-mobile route runs/paper --set router_label=auto     a distilled router for the paper's supernet
    """
    from canet_mobile.cli.progress import TrainReporter
    from canet_mobile.cli.train import free_name, summary
    from canet_mobile.routing.reroute import reroute
    from canet_mobile.run.directory import find_run, open_dataset
    from canet_mobile.run.presets import parse_settings

    found = find_run(run)
    dataset = open_dataset(found, data)
    options = {"budget": budget, "costs": costs}
    changes = parse_settings(settings) | {key: value for key, value in options.items() if value is not None}
    directory = out or free_name(found.directory.parent, f"{found.name}-routed")
    with TrainReporter(found.config) as reporter:
        made = reroute(found, dataset, directory, changes, force=force, reporter=reporter)
    click.echo(json.dumps(made.manifest, indent=2) if as_json else summary(made))
