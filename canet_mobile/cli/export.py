"""`canet-mobile export`: turn a run into one package per target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canet_mobile.cli.sizes import print_sizes
from canet_mobile.errors import CanetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from canet_export.targets import Target
    from canet_mobile.data.dataset import Dataset
    from canet_mobile.model.canet import Canet
    from canet_mobile.model.space import Route


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option(
    "--target", metavar="executorch|coreml|tflite|onnx|all", required=True, help="Runtime to export to."
)
@click.option(
    "--quantize",
    type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    default="int8",
    show_default=True,
    help="int8: one integer supernet, one scale per output row; int4: groups of 32.",
)
@click.option(
    "--routes",
    default="auto",
    show_default=True,
    metavar="auto|all|LIST",
    help="Submodels, comma-separated; the router then chooses among these. auto: those that some operating "
    "point gives to at least 1 % of the validation users, and all that the balanced one gives to anybody.",
)
@click.option("--max-mflops", type=float, metavar="X", help="Only routes of at most X paper MFLOPs.")
@click.option("--route", metavar="ENTRY", help="onnx: one submodel as an ordinary static graph, no router.")
@click.option(
    "--k",
    type=click.IntRange(min=1),
    help="Items a route returns [default: 20, or as many as there are left to recommend].",
)
@click.option(
    "--seen",
    type=click.Choice(["keep", "exclude"]),
    help="exclude: never return an item of the input [default: as the run was validated].",
)
@click.option("--split", is_flag=True, help="executorch: panels and layers as files to download when needed.")
@click.option(
    "--minimum-os",
    type=click.Choice(["ios17", "ios18"]),
    help="coreml: ios17 writes a package per route, for phones without multifunction models.",
)
@click.option(
    "--users",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    help="Validation users to measure the package's accuracy on; 0: not measured.",
)
@click.option("--allow-accuracy-drop", is_flag=True, help="Export int4 even beyond its accuracy bound.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Package folder; with all, the folder of four [default: packages/RUN-TARGET-QUANTIZE].",
)
@click.option(
    "--lengths",
    default="auto",
    show_default=True,
    metavar="LIST",
    help="Positions that entries are written for: auto, or up to three shorter ones and L, as 8,16,50.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [default: the run's].")
@click.option("--zip", "as_zip", is_flag=True, help="Also write each package as one file, beside it.")
@click.option(
    "--force", is_flag=True, help="Replace the package that stands at --out; nothing else is ever replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON (with all: a list).")
def export(
    *,
    run: Path | None,
    target: str,
    quantize: str,
    routes: str,
    max_mflops: float | None,
    route: str | None,
    k: int | None,
    seen: str | None,
    split: bool,
    minimum_os: str | None,
    users: int,
    allow_accuracy_drop: bool,
    lengths: str,
    out: Path | None,
    data: Path | None,
    as_zip: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export RUN, the newest by default, with its router and submodels in one file.

    The package holds the routes that the router gives to users, of 36 usually two; --routes all exports every
    one, which measuring their costs on a device needs (replay --costs-out). All submodels share their weights
    in the file, and every target holds the same integers. Each package is read back and run on histories of
    held-out users before it is kept; one that does not hold or compute what PyTorch does is not left behind.

    \b
    Examples:
      canet-mobile export --target executorch
      canet-mobile export runs/clicks --target all --out packages/clicks
      canet-mobile export runs/clicks --target executorch --routes all
      canet-mobile export --target tflite --routes e64_h64_d2,e128_h128_d8 --seen exclude
      canet-mobile export --target coreml --minimum-os ios17 --max-mflops 30
      canet-mobile export --target onnx --route e96_h64_d4
      canet-mobile export --target executorch --zip --json | jq .sizes
    """
    from canet_export.lengths import parse_lengths
    from canet_export.package import ExportOptions, export_package, prepare, zip_package
    from canet_export.targets import find_targets
    from canet_mobile.files import refuse_existing, refuse_file
    from canet_mobile.run.automatic import seen_protocol
    from canet_mobile.run.directory import find_run, load_canet, open_dataset, refuse_baseline

    targets = find_targets(target)
    _check_options(target, route, split, minimum_os)
    for one in targets:
        one.require_quantization(quantize)
    found = find_run(run)
    refuse_baseline(found)
    for one in targets:
        one.require_toolkit()
    folders = _folders(targets, out, found.directory.name, quantize)
    for folder in folders.values():
        refuse_existing(folder, force=force, kind="package")
        archive = _archive(folder)
        if as_zip:
            refuse_file(archive, kind="package")
            if archive.exists() and not force:
                raise CanetError("already exists", where=archive, fix="choose another --out or pass --force")
    canet = load_canet(found)
    dataset = open_dataset(found, data)
    options = ExportOptions(
        quantization=quantize,  # type: ignore[arg-type]
        routes=_routes(canet, dataset, routes, max_mflops, route),
        k=k,
        seen=seen or seen_protocol(found.config, dataset),  # type: ignore[arg-type]
        split=split,
        minimum_os=minimum_os,
        plain=route is not None,
        lengths=parse_lengths(lengths, found.config.length),
        users=users,
        allow_accuracy_drop=allow_accuracy_drop,
    )
    manifests = []
    prepared = prepare(canet, dataset, options, _warn)
    for one, folder in folders.items():
        with _progress(one.name) as progress:
            manifest = export_package(found, prepared, dataset, one, folder, force=force, progress=progress)
        if as_zip:
            click.echo(f"wrote {zip_package(folder, _archive(folder))}", err=True)
        if not as_json:
            _print(manifest, folder)
        manifests.append(manifest)
    if as_json:
        shown = manifests if target == "all" else manifests[0]
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def _check_options(target: str, route: str | None, split: bool, minimum_os: str | None) -> None:
    for name, given, only in (
        ("--route", route, "onnx"),
        ("--split", split, "executorch"),
        ("--minimum-os", minimum_os, "coreml"),
    ):
        if given and target != only:
            raise UsageError(f"{name} is for {only}, not for {target}", fix=f"--target {only}")


def _folders(targets: tuple[Target, ...], out: Path | None, run: str, quantize: str) -> dict[Target, Path]:
    if len(targets) == 1 and out is not None:
        return {targets[0]: out}
    if out is not None:
        return {one: out / one.name for one in targets}
    return {one: Path("packages") / f"{run}-{one.name}-{quantize}" for one in targets}


def _archive(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.zip")


def _routes(
    canet: Canet, dataset: Dataset, names: str, max_mflops: float | None, route: str | None
) -> tuple[Route, ...] | None:
    from canet_export.routes import routes_within

    if sum((names != "auto", max_mflops is not None, route is not None)) > 1:
        raise UsageError("--routes, --max-mflops and --route each choose the routes", fix="give one of them")
    if route is not None:
        return (canet.space.named(route),)
    if max_mflops is not None:
        return routes_within(canet, max_mflops)
    if names == "all":
        return None
    if names == "auto":
        return _in_use(canet, dataset)
    chosen = tuple(canet.space.named(name.strip()) for name in names.split(",") if name.strip())
    if not chosen:
        raise UsageError(f"--routes {names!r} names no route", fix="--routes auto")
    return chosen


def _in_use(canet: Canet, dataset: Dataset) -> tuple[Route, ...]:
    """What ``auto`` stands for, said on stderr."""
    from canet_export.package import DECISION_USERS
    from canet_export.routes import routes_in_use
    from canet_mobile.data.split import held_out
    from canet_mobile.model.points import POINTS

    found = routes_in_use(canet, held_out(dataset, "validation", limit=DECISION_USERS))
    if len(found.routes) < len(canet.space):
        listed = ", ".join(one.entry for one in found.routes)
        click.echo(
            f"{len(found.routes)} of {len(canet.space)} routes are in use at some operating point: {listed} "
            "(--routes all exports every one)",
            err=True,
        )
    for point, moved in zip(POINTS, found.moved, strict=True):
        if moved:
            click.echo(f"{point}: {moved:.2%} of the users get one of these for a rare route", err=True)
    return found.routes


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


@contextmanager
def _progress(target: str) -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: one changing line on a terminal, nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"{target}: export") as status:
        yield lambda text: status.update(f"{target}: {text}")


def _print(manifest: dict[str, Any], folder: Path) -> None:
    from canet_mobile.package.manifest import GOLDEN

    rows = len((folder / GOLDEN).read_text(encoding="utf-8").splitlines())
    click.echo(
        f"{folder}  {manifest['target']}, {manifest['quantization']}, k={manifest['k']}, "
        f"seen={manifest['seen']}, {manifest['items']:,} items, {len(manifest['routes'])} route(s), router\n"
    )
    print_sizes(manifest, len(manifest["routes"]))
    routes = [row for row in manifest["delegation"] if row["entry"] != manifest["router"]["entry"]]
    if routes:
        outside = sorted({name for row in routes for name in row["undelegated"]})
        click.echo(
            f"\n{sum(row['partitions'] for row in routes)} delegates for {len(routes)} routes; "
            f"outside: {', '.join(outside) or 'nothing'}"
        )
    click.echo(f"checked against PyTorch on {rows} golden rows; every number read back from the file")
    accuracy = manifest["accuracy"]
    if accuracy is not None:
        click.echo(
            f"NDCG@10 on {accuracy['users']:,} validation users: package {accuracy['package_host']:.4f}, "
            f"PyTorch fp32 {accuracy['pytorch_fp32']:.4f}; same route {accuracy['router_agreement']:.1%}\n"
        )
