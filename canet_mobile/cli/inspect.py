"""`canet-mobile inspect`: what is inside a dataset, a run or a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from canet_mobile.cli.sizes import print_sizes, size_text

KINDS = ("dataset", "run", "package")


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def inspect(path: Path | None, as_json: bool) -> None:
    """Show what is inside PATH: a dataset, a run or a package [default: runs/latest].

    The checksums of datasets and packages are verified. For a package it lists every route with its costs and
    what of it is left outside the accelerated delegate: that is what makes a route slow.

    \b
    Examples:
      canet-mobile inspect
      canet-mobile inspect datasets/clicks
      canet-mobile inspect packages/clicks
      canet-mobile inspect clicks.zip --json
    """
    found = describe(path)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    {"dataset": _print_dataset, "run": _print_run, "package": _print_package}[found["kind"]](found)


def describe(path: Path | None) -> dict[str, Any]:
    """What is inside an artefact, by the ``kind`` of its manifest.

    Raises:
        CanetError: there is no such path, it is no artefact of canet-mobile, or it is damaged.
    """
    from canet_mobile.errors import CanetError
    from canet_mobile.files import MANIFEST, read_json
    from canet_mobile.package.manifest import GOLDEN

    if path is None:
        return _describe_run(None)
    if not path.exists():
        raise CanetError("no such file or folder", where=path, fix="give a dataset, a run or a package")
    if path.is_file():
        if path.name == MANIFEST:
            path = path.parent
        elif path.name == "latest":
            return _describe_run(path)
        else:
            return _describe_package(path)
    if not (path / MANIFEST).is_file():
        raise CanetError(
            f"holds no {MANIFEST}, so it is not an artefact of canet-mobile",
            where=path,
            fix="give a dataset, a run or a package",
        )
    # Only a package has golden rows, however damaged its manifest is.
    manifest = {"kind": "package"} if (path / GOLDEN).is_file() else read_json(path / MANIFEST)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind == "dataset":
        return _describe_dataset(path, manifest)
    if kind == "run":
        return _describe_run(path)
    if kind == "package":
        return _describe_package(path)
    raise CanetError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}", where=path / MANIFEST)


def _describe_dataset(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    from canet_mobile.files import MANIFEST, verify_files
    from canet_mobile.schema import validate

    validate(manifest, "dataset", where=path / MANIFEST)
    verify_files(path, manifest["files"])
    fields = ("kind", "name", "created_by", "counts", "has_times", "content_hash", "files")
    return {"path": str(path), **{field: manifest[field] for field in fields}}


def _describe_run(path: Path | None) -> dict[str, Any]:
    from canet_mobile.files import read_json
    from canet_mobile.run.directory import find_run

    run = find_run(path)
    manifest = run.manifest
    fields = (
        "kind",
        "name",
        "created_by",
        "status",
        "config",
        "dataset",
        "progress",
        "checkpoints",
        "routing",
    )
    evaluations = {
        file.stem.removeprefix("evaluation-"): read_json(file)
        for file in sorted(run.directory.glob("evaluation-*.json"))
    }
    return {
        "path": str(run.directory),
        **{field: manifest[field] for field in fields},
        "evaluations": evaluations,
    }


def _describe_package(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from canet_mobile.package.package import open_package

    package = open_package(path)
    delegation = {row.entry: row for row in package.manifest.delegation}
    routes = []
    for row in (asdict(package.manifest.router), *map(asdict, package.manifest.routes)):
        found = delegation.get(row["entry"])
        routes.append(
            {
                **row,
                "partitions": None if found is None else found.partitions,
                "undelegated": {} if found is None else found.undelegated,
            }
        )
    apart = ("router", "routes", "delegation")
    manifest = {k: v for k, v in package.manifest.document.items() if k not in apart}
    return {
        "path": str(path),
        **manifest,
        "sha256": package.sha256,
        "golden_rows": len(package.golden),
        "entries": routes,
        "warnings": list(package.warnings),
    }


def _rows(rows: list[tuple[str, str]]) -> None:
    for label, value in rows:
        click.echo(f"{label:<20}{value}")


def _print_dataset(found: dict[str, Any]) -> None:
    counts = found["counts"]
    _rows(
        [
            ("dataset", f"{found['name']} in {found['path']}"),
            *((name, f"{counts[name]:,}") for name in ("users", "histories", "items", "interactions")),
            ("times", "yes" if found["has_times"] else "no: the order of the log"),
            ("content", found["content_hash"][:16]),
            *((file["name"], size_text(file["bytes"])) for file in found["files"]),
        ]
    )


def _print_run(found: dict[str, Any]) -> None:
    config, progress = found["config"], found["progress"]
    best = progress["best_ndcg10"]
    stopped = f", stopped by {progress['stopped_by']}" if progress["stopped_by"] else ""
    rows = [
        ("run", f"{found['name']} in {found['path']}"),
        ("status", f"{found['status']}, epoch {progress['epoch']}, {progress['seconds']:.0f} s{stopped}"),
        ("dataset", f"{found['dataset']['name']}, {found['dataset']['items']:,} items"),
        ("model", f"{config['model']}, recipe {config['recipe']}, seed {config['seed']}"),
        ("space", " x ".join(str(list(config[name])) for name in ("embedding", "hidden", "depth"))),
        ("length", str(config["length"])),
        (
            "best epoch",
            "none yet" if best is None else f"{progress['best_epoch']}, validation NDCG@10 {best:.4f}",
        ),
    ]
    rows += [
        (f"file {role}", f"{f['name']}, {size_text(f['bytes'])}") for role, f in found["checkpoints"].items()
    ]
    rows += [(f"evaluated on {split}", "see --json") for split in found["evaluations"]]
    _rows(rows)


def _print_package(found: dict[str, Any]) -> None:
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    accuracy = found["accuracy"]
    scores = "not measured"
    if accuracy is not None:
        names = {
            "pytorch_fp32": "PyTorch fp32",
            "pytorch_same_integers": "same integers",
            "package_host": "package",
        }
        scores = ", ".join(
            f"{label} {accuracy[k]:.4f}" for k, label in names.items() if accuracy[k] is not None
        )
    _rows(
        [
            ("package", f"{found['name']} in {found['path']} ({found['sha256'][:16]})"),
            ("target", f"{found['target']}, {found['quantization']}, made by {found['created_by']}"),
            ("tools", ", ".join(f"{name} {version}" for name, version in found["exporter"].items())),
            ("integers", "none" if found["integers"] is None else found["integers"]["sha256"][:16]),
            ("runtime", ", ".join(f"{name} {value}" for name, value in found["runtime"].items()) or "-"),
            *(("part", f"{part['name']} for {len(part['entries'])} entries") for part in found["parts"]),
            ("minimum", ", ".join(f"{name} {version}" for name, version in found["minimum_os"].items())),
            ("input", f"{found['length']} of {found['items']:,} items, left-padded int32"),
            ("lengths", ", ".join(map(str, found["lengths"])) + ": the shortest that holds the history"),
            ("output", f"top {found['k']}, seen={found['seen']}"),
            ("routes", f"{len(found['entries']) - 1} of {_possible(found['space'])} in the routing space"),
            ("NDCG@10", scores),
            ("golden rows", str(found["golden_rows"])),
            ("from", f"checkpoint {found['checkpoint']['sha256'][:16]}"),
            ("", f"dataset {found['dataset']['name']} ({found['dataset']['content_hash'][:16]})"),
        ]
    )
    _print_points(found["operating_points"], found["default_point"])
    click.echo()
    print_sizes(found, len(found["entries"]) - 1)
    costs = f"{'paper':>9}{'executed':>10}  MFLOPs"
    is_known = any(row["partitions"] is not None for row in found["entries"])
    heading = "delegate partitions; outside of them" if is_known else "delegation: decided at load time"
    click.echo(f"\n{'id':>3}  {'entry':<16}{costs}  {heading}")
    for row in found["entries"]:
        outside = ", ".join(f"{name} x{count}" for name, count in row["undelegated"].items()) or "nothing"
        partitions = "?" if row["partitions"] is None else row["partitions"]
        costs = f"{row['paper_mflops']:>9.3f}{row['executed_mflops']:>10.3f}"
        delegated = f"{'':<10}{partitions}; {outside}" if is_known else ""
        click.echo(f"{row.get('id', ''):>3}  {row['entry']:<16}{costs}{delegated}")


def _possible(space: dict[str, list[int]]) -> int:
    from math import prod

    return prod(map(len, space.values()))


def _print_points(points: list[dict[str, Any]], default: str | None) -> None:
    """What the operating points give and cost, and the entries they use most."""
    if not points:
        return
    click.echo(f"\n{'point':>7}  {'':<10}{'paper':>9}{'executed':>10}  MFLOPs{'NDCG@10':>10}   most used")
    for row in points:
        name = f"{row['name']}{' *' if row['name'] == default else ''}"
        if row["shares"] is None:
            click.echo(f"{row['id']:>7}  {name:<10}{'not measured':>19}")
            continue
        ndcg = row["package_host"]
        often = sorted(row["shares"].items(), key=lambda item: -item[1])[:3]
        used = ", ".join(f"{entry} {share:.0%}" for entry, share in often)
        costs = f"{row['paper_mflops']:>9.3f}{row['executed_mflops']:>10.3f}"
        click.echo(f"{row['id']:>7}  {name:<10}{costs}{'-' if ndcg is None else f'{ndcg:.4f}':>18}   {used}")
