"""`canet-mobile replay`: held-out users through a package, on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from canet_mobile.cli.options import data_option, json_option, out_option, run_option


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--device", default="host", show_default=True, metavar="host|arm64|android|ios", help="Where to run it."
)
@click.option(
    "--point",
    default="balanced",
    show_default=True,
    metavar="saver|balanced|best",
    help="Operating point of the router.",
)
@data_option
@run_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Users, evenly spaced."
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Runtime threads.")
@click.option(
    "--costs-out",
    type=click.Path(path_type=Path),
    help="Also measure every exported route and the router, and write the table that `route --costs` reads.",
)
@out_option
@json_option
def replay(
    *,
    package: Path,
    device: str,
    point: str,
    data: Path | None,
    run_path: Path | None,
    limit: int,
    threads: int,
    costs_out: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay the test users of PACKAGE's dataset through the runtime, as an app would.

    For each user: run the router, then the submodel it names. Reports accuracy beside PyTorch's on the same
    users, how often both agree, latency without loading and warm-up, load times and memory. Accuracy is under
    the package's own seen policy; another one cannot be computed from its lists.

    \b
    Examples:
      canet-mobile replay packages/clicks
      canet-mobile replay clicks.zip --data datasets/clicks --run runs/clicks --limit 200
      canet-mobile replay packages/clicks --threads 2 --out replay.json
      canet-mobile replay packages/clicks --point saver
      canet-mobile replay packages/clicks --costs-out phone.json
      canet-mobile replay packages/clicks --json | jq .latency_ms.total
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from canet_mobile.cli.output import emit
    from canet_mobile.data.split import held_out
    from canet_mobile.files import refuse_file, write_json
    from canet_mobile.model.points import point_id
    from canet_mobile.package.package import open_package
    from canet_mobile.replay.device import require_built
    from canet_mobile.replay.reference import (
        find_checkpoint,
        find_dataset,
        missing_checkpoint,
        package_lists,
    )
    from canet_mobile.replay.replay import replay as run_replay
    from canet_mobile.replay.timing import CALLS, costs_table, require_measurable
    from canet_mobile.schema import validate

    require_built(device)
    point_id(point)
    refuse_file(out, kind="replay")
    refuse_file(costs_out, kind="costs_table")
    opened = open_package(package)
    chosen = opened.point(point)
    if costs_out is not None:
        require_measurable(opened)
    for warning in opened.warnings:
        click.echo(f"warning: {warning}", err=True)
    checkpoint = find_checkpoint(opened, run_path)
    if checkpoint is None:
        click.echo(f"note: {missing_checkpoint(opened)}; there are no PyTorch figures", err=True)
    run, model = checkpoint or (None, None)
    dataset = find_dataset(opened, data, run)
    queries = held_out(dataset, "test", limit=limit)
    seqs = queries.inputs(slice(None), opened.length)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"replaying on {device}", total=len(queries))
        report = run_replay(
            opened,
            seqs,
            queries.targets,
            reference=None if model is None else partial(package_lists, model, opened, point=chosen),
            device=device,
            threads=threads,
            point=chosen,
            progress=lambda n: bar.advance(task, n),
        )
        if costs_out is not None:
            timing = bar.add_task("measuring every route", total=CALLS)
            table = costs_table(
                opened, seqs, device=device, threads=threads, progress=lambda n: bar.advance(timing, n)
            )
            validate(table, "costs_table", where=costs_out)
            write_json(costs_out, table)
            click.echo(f"wrote {costs_out}", err=True)
    report["data"] = {
        "name": dataset.name,
        "content_hash": dataset.content_hash,
        "split": "test",
        "users": len(queries),
        "of": dataset.num_histories,
    }
    emit(report, "replay", out=out, as_json=as_json, text=_print)


def _print(report: dict[str, Any]) -> None:
    package, device, data, point = (report[name] for name in ("package", "device", "data", "point"))
    click.echo(f"{package['path']}  {package['name']}, {package['quantization']}, seen={package['seen']}")
    click.echo(
        f"{device['name']}, {device['runtime']}, {device['threads']} thread(s), {report['machine']['cpu']}; "
        f"{data['users']:,} of {data['of']:,} test users{'' if point is None else f' at {point!r}'}\n"
    )
    ours, theirs = report["metrics"]["package"], report["metrics"]["pytorch"]
    click.echo(f"{'':<12}{'package':>10}{'PyTorch':>10}")
    for name, label in (("ndcg@10", "NDCG@10"), ("recall@10", "Recall@10")):
        other = "-" if theirs is None else f"{theirs[name]:.4f}"
        click.echo(f"{label:<12}{ours[name]:>10.4f}{other:>10}")
    agreement = report["agreement"]
    if agreement is not None:
        click.echo(f"same route {agreement['router']:.1%}, top-10 overlap {agreement['top10_overlap']:.3f}")
    costs = report["costs"]
    largest = costs["largest"]
    click.echo(
        f"mean cost {costs['executed_mflops']:.2f} MFLOPs executed, {costs['paper_mflops']:.2f} by the paper "
        f"({largest['entry']}: {largest['executed_mflops']:.2f}, {largest['paper_mflops']:.2f})\n"
    )
    click.echo(f"{'latency ms':<16}{'users':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'load':>9}{'first':>9}")
    load = report["load_ms"]
    _print_latency(
        "router", data["users"], report["latency_ms"]["router"], load["router"], load["router_first_run"]
    )
    for route in report["routes"]:
        if route["users"]:
            percentiles = route["latency_ms"]["submodel"]
            _print_latency(
                route["entry"], route["users"], percentiles, route["load_ms"], route["first_run_ms"]
            )
    _print_latency("total", data["users"], report["latency_ms"]["total"], None, None)
    peak = report["memory_bytes"]["process_peak"]
    memory = "" if peak is None else f"; peak memory of the process {peak / 2**20:.0f} MiB (Python included)"
    click.echo(f"\nprogram loaded in {load['program']:.3f} ms{memory}")


def _print_latency(
    name: str, users: int, percentiles: dict[str, float], load: float | None, first: float | None
) -> None:
    cells = [percentiles["p50"], percentiles["p90"], percentiles["p99"], load, first]
    numbers = "".join(f"{'-' if cell is None else f'{cell:.3f}':>9}" for cell in cells)
    click.echo(f"{name:<16}{users:>7,}{numbers}")
