"""A package, verified before first use: nothing of it is run, or read further, until every check holds."""

from __future__ import annotations

import shutil
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import MANIFEST, read_json, sha256_file, verify_files
from canet_mobile.model.points import BALANCED, POINTS, point_id
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.package.archive import extracted, without_companions
from canet_mobile.package.consistency import AGAIN, ITEM_MAP, check_item_map, check_points, check_shapes
from canet_mobile.package.golden import GOLDEN, GoldenRow, read_golden
from canet_mobile.package.lengths import entry_at
from canet_mobile.schema import validate

# A file of one of these kinds that the manifest does not list could be loaded by mistake.
MODEL_SUFFIXES = (
    ".pte",
    ".ptd",
    ".bpte",
    ".tflite",
    ".onnx",
    ".ort",
    ".mlpackage",
    ".mlmodel",
    ".mlmodelc",
    ".safetensors",
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
)


@dataclass(frozen=True)
class PackageRoute:
    """An exported route: its id (what the router answers), submodel, and costs in MFLOPs."""

    id: int
    route: Route
    paper_mflops: float
    executed_mflops: float

    @property
    def entry(self) -> str:
        """The name of the method that runs it."""
        return self.route.entry


@dataclass(frozen=True, eq=False)
class Package:
    """An opened package. Every file in it is as its manifest says.

    Args:
        source: the directory or zip that was opened.
        directory: where the files lie (for a zip a temporary directory, removed with this object).
        manifest: the manifest, valid by schemas/manifest.schema.json.
        sha256: of the manifest's bytes, which hold the hash of every other file: the package's identity.
        space: the routing space.
        routes: the exported routes, in ascending id.
        golden: the self-test rows.
        warnings: what is odd but harmless, one sentence each.
    """

    source: Path
    directory: Path
    manifest: dict[str, Any]
    sha256: str
    space: RoutingSpace
    routes: tuple[PackageRoute, ...]
    golden: tuple[GoldenRow, ...]
    warnings: tuple[str, ...]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.directory / self.manifest["model_file"]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.manifest["name"]

    @property
    def items(self) -> int:
        """Number of items V."""
        return self.manifest["items"]

    @property
    def length(self) -> int:
        """Input length L."""
        return self.manifest["length"]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions that every entry is there for, ascending; the last is :attr:`length`."""
        return tuple(self.manifest["lengths"])

    @property
    def entries(self) -> tuple[str, ...]:
        """Every entry of the model file: the router and the routes, each at every length."""
        names = ["router", *(route.entry for route in self.routes)]
        return tuple(entry_at(name, length, self.length) for length in self.lengths for name in names)

    @property
    def k(self) -> int:
        """Length of the returned lists."""
        return self.manifest["k"]

    @property
    def quantization(self) -> str:
        """fp32, fp16, int8 or int4."""
        return self.manifest["quantization"]

    @property
    def index_dtype(self) -> str:
        """Of route ids and item ids: int32 or int64."""
        return self.manifest["outputs"]["router"]["route"]["dtype"]

    @property
    def has_router(self) -> bool:
        """Whether there is anything to route: not in a package of a plain SASRec, nor in a plain graph."""
        return self.manifest["router"]["table"] is not None

    def point(self, name: str) -> int:
        """The id of an operating point: the router's second input.

        Raises:
            UsageError: there is no such point, or nothing here that a point other than the default changes.
        """
        point = point_id(name)
        if point != BALANCED and not self.has_router:
            raise UsageError(
                f"the operating point {name!r} chooses nothing: the package has no router",
                where=self.source,
                fix=f"leave it out, or use {POINTS[BALANCED]}",
            )
        return point

    def route(self, route_id: int) -> PackageRoute:
        """The exported route with this id.

        Raises:
            CanetError: the package does not hold it.
        """
        for route in self.routes:
            if route.id == route_id:
                return route
        raise CanetError(
            f"the router chose route {route_id}, which this package does not hold "
            f"(it holds {', '.join(str(r.id) for r in self.routes)})",
            where=self.source,
            fix="export every route, or train with the smaller routing space",
        )


def open_package(path: Path) -> Package:
    """Open a package directory or zip and verify all of it.

    Raises:
        CanetError: there is no package, or one of its files is missing, truncated, altered, inconsistent or
            unexpected; the message names the file and what is wrong with it.
    """
    if path.is_dir():
        return _verified(path, path, None)
    if not path.is_file():
        raise CanetError(
            "no such package",
            where=path,
            fix="canet-mobile export makes one; or give the directory or zip of one",
        )
    directory, others = extracted(path)
    try:
        package = _verified(path, directory, others)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    weakref.finalize(package, shutil.rmtree, directory, ignore_errors=True)
    return package


def _verified(source: Path, directory: Path, others: list[str] | None) -> Package:
    manifest_path = directory / MANIFEST
    shown = source / MANIFEST
    if not manifest_path.is_file():
        raise CanetError(f"holds no {MANIFEST}, so it is not a package", where=source)
    manifest = read_json(manifest_path)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind != "package":
        raise CanetError(f"is the manifest of a {kind!r}, not of a package", where=shown)
    validate(manifest, "manifest", where=shown)
    names = [entry["name"] for entry in manifest["files"]]
    for name, count in Counter(names).items():
        if count > 1:
            raise CanetError(f"files lists {name!r} {count} times", where=shown, fix=AGAIN)
    used = [part["name"] for part in manifest["parts"]] + list(
        manifest["interface"].get("files", {}).values()
    )
    for name in (manifest["model_file"], ITEM_MAP, GOLDEN, *used):
        if not any(listed == name or listed.startswith(f"{name}/") for listed in names):
            raise CanetError(
                f"files does not list {name!r}, so it cannot be verified", where=shown, fix=AGAIN
            )
    verify_files(directory, manifest["files"])
    warnings = _unlisted(source, _present(directory) if others is None else others, names)
    space, routes = _routes(manifest, shown)
    check_shapes(manifest, shown)
    check_points(manifest, shown)
    check_item_map(directory / ITEM_MAP, manifest)
    golden = read_golden(directory / GOLDEN, manifest, space)
    return Package(source, directory, manifest, sha256_file(manifest_path), space, routes, golden, warnings)


def _present(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if not p.is_dir())


def _unlisted(source: Path, present: list[str], listed: list[str]) -> tuple[str, ...]:
    extra, companions = without_companions(name for name in present if name not in {*listed, MANIFEST})
    for name in extra:
        if any(Path(part).suffix.lower() in MODEL_SUFFIXES for part in name.split("/")):
            raise CanetError(
                f"holds the model-like file {name!r}, which the manifest does not list",
                where=source,
                fix="remove it: nothing vouches for it",
            )
    warnings = [f"{source}: {name!r} is not listed in the manifest and is ignored" for name in extra]
    if companions:
        warnings.append(
            f"{source}: {len(companions)} file(s) that macOS put there ({companions[0]!r}) are ignored"
        )
    return tuple(warnings)


def _routes(manifest: dict[str, Any], where: Path) -> tuple[RoutingSpace, tuple[PackageRoute, ...]]:
    try:
        space = RoutingSpace.from_json(manifest["space"])
    except UsageError as error:
        raise CanetError(error.what, where=where, fix=AGAIN) from error
    routes = []
    for row in manifest["routes"]:
        sizes = Route(row["embedding"], row["hidden"], row["depth"])
        if row["id"] >= len(space) or space.routes[row["id"]] != sizes:
            expected = space.routes[row["id"]].entry if row["id"] < len(space) else f"ids 0..{len(space) - 1}"
            raise CanetError(
                f"route {row['id']} is {sizes.entry}, the routing space says {expected}",
                where=where,
                fix=AGAIN,
            )
        if row["entry"] != sizes.entry:
            raise CanetError(
                f"route {row['id']} has the entry {row['entry']!r}, its sizes say {sizes.entry!r}",
                where=where,
                fix=AGAIN,
            )
        routes.append(PackageRoute(row["id"], sizes, row["paper_mflops"], row["executed_mflops"]))
    ids = [route.id for route in routes]
    if ids != sorted(set(ids)):
        raise CanetError(f"routes are not in ascending id without repeats: {ids}", where=where, fix=AGAIN)
    return space, tuple(routes)
