"""`canet-mobile export`: turn a run into one package for a phone's runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canet_mobile.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from canet_mobile.model.space import Route, RoutingSpace

TARGETS = ("executorch",)
LATER = ("coreml", "tflite", "onnx")
PARTS = ("item_table", "classifier", "layers", "router", "graph")


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--target", metavar="|".join(TARGETS), required=True, help="Runtime to export to.")
@click.option(
    "--quantize",
    type=click.Choice(["int8", "fp32"]),
    default="int8",
    show_default=True,
    help="int8: one integer supernet, one scale per output row.",
)
@click.option(
    "--routes",
    default="all",
    show_default=True,
    metavar="all|LIST",
    help="Submodels, comma-separated; the router then chooses among these.",
)
@click.option("--k", type=click.IntRange(min=1), default=20, show_default=True, help="Items a route returns.")
@click.option(
    "--seen",
    type=click.Choice(["keep", "exclude"]),
    default="keep",
    show_default=True,
    help="exclude: never return an item of the input.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Package folder [default: packages/RUN-TARGET-QUANTIZE].",
)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [default: the run's].")
@click.option("--zip", "as_zip", is_flag=True, help="Also write the package as one file, OUT.zip.")
@click.option("--force", is_flag=True, help="Replace the package that stands at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def export(
    *,
    run: Path | None,
    target: str,
    quantize: str,
    routes: str,
    k: int,
    seen: str,
    out: Path | None,
    data: Path | None,
    as_zip: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export RUN, the newest by default, with its router and submodels in one file.

    All submodels share their weights in the file. Every package is run on histories of held-out users before
    it is kept; one that does not compute what PyTorch computes is not left behind.

    \b
    Examples:
      canet-mobile export --target executorch
      canet-mobile export runs/clicks --target executorch --quantize fp32 --out packages/clicks
      canet-mobile export --target executorch --routes e64_h64_d2,e128_h128_d8 --seen exclude
      canet-mobile export --target executorch --zip --json | jq .sizes
    """
    _check_target(target)
    from canet_export.package import ExportOptions, export_package, zip_package
    from canet_mobile.files import refuse_existing
    from canet_mobile.train.run import find_run, load_model, open_dataset

    found = find_run(run)
    folder = out or Path("packages") / f"{found.directory.name}-{target}-{quantize}"
    archive = folder.with_name(f"{folder.name}.zip")
    refuse_existing(folder, force=force)
    if as_zip and archive.exists() and not force:
        refuse_existing(archive, force=False)
    canet = load_model(found)
    options = ExportOptions(quantize, _routes(canet.space, routes), k, seen)  # type: ignore[arg-type]
    dataset = open_dataset(found, data)
    with _progress() as progress:
        manifest = export_package(found, canet, dataset, options, folder, force=force, progress=progress)
    if as_zip:
        click.echo(f"wrote {zip_package(folder, archive)}", err=True)
    if as_json:
        click.echo(json.dumps(manifest, indent=2, ensure_ascii=False))
    else:
        _print(manifest, folder)


def _check_target(target: str) -> None:
    if target in LATER:
        raise UsageError(f"the target {target!r} is not built yet", fix=f"--target {' or '.join(TARGETS)}")
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)


def _routes(space: RoutingSpace, names: str) -> tuple[Route, ...] | None:
    if names == "all":
        return None
    return tuple(space.named(name.strip()) for name in names.split(",") if name.strip())


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done; nothing where stderr is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("export") as status:
        yield status.update


def _size(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _print(manifest: dict[str, Any], folder: Path) -> None:
    sizes = manifest["sizes"]
    total = sizes["total_bytes"]
    click.echo(
        f"{folder}  {manifest['target']}, {manifest['quantization']}, k={manifest['k']}, "
        f"seen={manifest['seen']}, {manifest['items']:,} items, {len(manifest['routes'])} route(s), router\n"
    )
    for part in PARTS:
        size = sizes[f"{part}_bytes"]
        click.echo(f"{part.replace('_', ' '):<18}{_size(size):>12}{size / total:>8.1%}")
    click.echo(f"{manifest['model_file']:<18}{_size(total):>12}")
    alone, separate = sizes["full_model_alone_bytes"], sizes["separate_files_bytes"]
    click.echo(f"{'full model alone':<18}{_size(alone):>12}   computed; ours is {total / alone:.2f} times it")
    click.echo(f"{'one file each':<18}{_size(separate):>12}   computed; ours is {total / separate:.1%} of it")
    routes = [row for row in manifest["delegation"] if row["entry"] != manifest["router"]["entry"]]
    outside = sorted({name for row in routes for name in row["undelegated"]})
    click.echo(
        f"\nXNNPACK: {sum(row['partitions'] for row in routes)} delegates for {len(routes)} routes; "
        f"outside: {', '.join(outside)}"
    )
    click.echo(f"checked against PyTorch on {2 * len(routes)} golden rows")
