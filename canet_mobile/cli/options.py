"""Options that commands on a package share, so that they read and mean the same."""

from __future__ import annotations

from pathlib import Path

import click

run_option = click.option(
    "--run",
    "run_path",
    type=click.Path(path_type=Path),
    help="Run it was exported from [default: found by its hash, in runs/ or beside PACKAGE].",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Dataset folder [default: found by its hash, in datasets/ or beside PACKAGE].",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write the report to this JSON file; only an older report is replaced.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
