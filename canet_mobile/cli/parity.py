"""`canet-mobile parity`: does a package compute what its checkpoint computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from canet_mobile.cli.options import data_option, json_option, out_option, run_option

VERDICTS = {True: "ok", False: "FAILED", None: "undecided"}


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@run_option
@data_option
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Held-out users for router and task.",
)
@click.option(
    "--rows-per-route",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Histories per route, one of them of a single item.",
)
@out_option
@json_option
def parity(
    *,
    package: Path,
    run_path: Path | None,
    data: Path | None,
    users: int,
    rows_per_route: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Prove that PACKAGE computes what its checkpoint computes; exit code 3 when it does not.

    Checks the golden rows that travel with the package and, where its checkpoint is here: that every weight
    stands in the model file byte for byte; every route against PyTorch (fp32: sliced submodels, to 1e-4;
    int8: the same integers); the router; and NDCG@10 within 1 % of PyTorch fp32.

    \b
    Examples:
      canet-mobile parity packages/clicks
      canet-mobile parity clicks.zip --run runs/clicks --data datasets/clicks
      canet-mobile parity packages/clicks --users 2000 --rows-per-route 8 --out parity.json
      canet-mobile parity packages/clicks --json | jq '.checks[] | {name, passed, value}'
    """
    from rich.console import Console

    from canet_export.parity import open_for_parity, require
    from canet_export.parity import parity as run_parity
    from canet_mobile.cli.output import emit
    from canet_mobile.data.split import held_out
    from canet_mobile.errors import ParityError
    from canet_mobile.files import refuse_file
    from canet_mobile.replay.reference import find_checkpoint, find_dataset, missing_checkpoint

    refuse_file(out, kind="parity")
    opened = open_for_parity(package)
    for warning in opened.warnings:
        click.echo(f"warning: {warning}", err=True)
    checkpoint = find_checkpoint(opened, run_path)
    model = queries = None
    if checkpoint is None:
        click.echo(f"note: {missing_checkpoint(opened)}; only the golden rows are checked", err=True)
    else:
        run, model = checkpoint
        queries = held_out(find_dataset(opened, data, run), "test", limit=users)
    with Console(stderr=True).status("checking") as status:
        report = run_parity(
            opened,
            reference=model,
            queries=queries,
            rows_per_route=rows_per_route,
            progress=lambda stage: status.update(f"checking {stage}"),
        )
    emit(report, "parity", out=out, as_json=as_json, text=_print)
    try:
        require(report, opened.source)
    except ParityError as error:
        error.is_told = as_json  # stdout holds one document: the report, which says it whole
        raise


def _print(report: dict[str, Any]) -> None:
    package = report["package"]
    click.echo(f"{package['path']}  {package['name']}, {package['quantization']}, {report['level']} parity\n")
    for check in report["checks"]:
        click.echo(f"{check['name']:<12}{VERDICTS[check['passed']]:<11}{check['detail']}")
