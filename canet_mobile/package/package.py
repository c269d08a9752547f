"""A package, verified before first use: nothing of it is run, or read further, until every check holds."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from canet_mobile.errors import UsageError
from canet_mobile.files import MANIFEST, hash_problem, sha256_file, size_problem
from canet_mobile.model.points import BALANCED, POINTS, point_id
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.package.archive import extracted, without_companions
from canet_mobile.package.consistency import check_interface, check_item_map, check_points
from canet_mobile.package.golden import GoldenRow, read_golden
from canet_mobile.package.magic import check_model_files
from canet_mobile.package.manifest import (
    AGAIN,
    GOLDEN,
    ITEM_MAP,
    ListedFile,
    Manifest,
    is_listed,
    read_manifest,
)
from canet_mobile.package.names import clash, odd_name
from canet_mobile.package.refusal import Code, Refused

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
    """An opened package. Every file in it is as its manifest says: only :func:`open_package` makes one.

    Args:
        source: the directory or zip that was opened.
        directory: where the files lie (for a zip a temporary directory, removed with this object).
        manifest: what its manifest says.
        sha256: of the manifest's bytes, which hold the hash of every other file: the package's identity.
        space: the routing space.
        routes: the exported routes, in ascending id.
        golden: the self-test rows.
        warnings: what is odd but harmless, one sentence each.
    """

    source: Path
    directory: Path
    manifest: Manifest
    sha256: str
    space: RoutingSpace
    routes: tuple[PackageRoute, ...]
    golden: tuple[GoldenRow, ...]
    warnings: tuple[str, ...]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.directory / self.manifest.model_file

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.manifest.name

    @property
    def items(self) -> int:
        """Number of items V."""
        return self.manifest.items

    @property
    def length(self) -> int:
        """Input length L."""
        return self.manifest.length

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions that every entry is there for, ascending; the last is :attr:`length`."""
        return self.manifest.lengths

    @property
    def entries(self) -> tuple[str, ...]:
        """Every entry of the model file: the router and the routes, each at every length."""
        return self.manifest.entries

    @property
    def k(self) -> int:
        """Length of the returned lists."""
        return self.manifest.k

    @property
    def quantization(self) -> str:
        """fp32, fp16, int8 or int4."""
        return self.manifest.quantization

    @property
    def index_dtype(self) -> str:
        """Of route ids and item ids: int32 or int64."""
        return self.manifest.outputs.route.dtype

    @property
    def has_router(self) -> bool:
        """Whether there is anything to route: not in a package of a plain SASRec, nor in a plain graph."""
        return self.manifest.router.table is not None

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
            Refused: the package does not hold it.
        """
        for route in self.routes:
            if route.id == route_id:
                return route
        raise Refused(
            Code.ROUTE_UNKNOWN,
            f"the router chose route {route_id}, which this package does not hold "
            f"(it holds {', '.join(str(r.id) for r in self.routes)})",
            where=self.source,
            fix="export every route, or train with the smaller routing space",
        )

    def require_unchanged_model(self) -> None:
        """Hash again what a runtime is about to open: minutes may lie between opening and loading.

        A flipped bit in a model file ends the process in native code, or runs unnoticed.

        Raises:
            Refused: a model file or a part is not what was verified.
        """
        names = (*self.manifest.model_files, *(part.name for part in self.manifest.parts))
        opened = [each for each in self.manifest.files if any(is_listed(name, [each.name]) for name in names)]
        _verify(self.directory, self.source, opened)


def open_package(path: Path) -> Package:
    """Open a package directory or zip and verify all of it.

    Raises:
        Refused: there is no package, or one of its files is missing, truncated, altered, inconsistent or
            unexpected; the code says which of these, the message names the file and what is wrong with it.
    """
    if path.is_dir():
        return _verified(path, path, None)
    if not path.is_file():
        raise Refused(
            Code.PACKAGE_MISSING,
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
    """Every check in the order of :class:`Code`: the cheap ones that guard the dear ones first."""
    path, shown = directory / MANIFEST, source / MANIFEST
    if not path.is_file():
        raise Refused(
            Code.MANIFEST_MISSING, f"holds no {MANIFEST}, so it is not a package", where=source, fix=AGAIN
        )
    manifest = read_manifest(path, shown=shown)
    _verify(directory, source, manifest.files)
    present = _present(directory) if others is None else others
    warnings = _unlisted(source, present, [file.name for file in manifest.files])
    check_model_files(directory, source, manifest)
    space, routes = _routes(manifest, shown)
    check_interface(manifest, shown)
    check_points(manifest, shown)
    check_item_map(directory / ITEM_MAP, manifest, shown=source / ITEM_MAP)
    golden = read_golden(directory / GOLDEN, manifest, shown=source / GOLDEN)
    return Package(source, directory, manifest, sha256_file(path), space, routes, golden, warnings)


def _verify(directory: Path, source: Path, files: Iterable[ListedFile]) -> None:
    """All sizes, which cost nothing, before the first hash."""
    for file in files:
        if found := size_problem(directory / file.name, file.bytes):
            raise Refused(Code(found[0]), found[1], where=source / file.name, fix=AGAIN)
    for file in files:
        if found := hash_problem(directory / file.name, file.sha256):
            raise Refused(Code(found[0]), found[1], where=source / file.name, fix=AGAIN)


def _present(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if not p.is_dir())


def _unlisted(source: Path, present: list[str], listed: list[str]) -> tuple[str, ...]:
    kept, companions = without_companions(present)
    bad = next(filter(None, map(odd_name, kept)), None) or clash(kept)
    if bad:
        raise Refused(Code.NAMES_UNSAFE, f"holds {bad}", where=source, fix="rename it, or remove it")
    extra = [name for name in kept if name not in {*listed, MANIFEST}]
    for name in extra:
        if any(Path(part).suffix.lower() in MODEL_SUFFIXES for part in name.split("/")):
            raise Refused(
                Code.UNLISTED_MODEL,
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


def _routes(manifest: Manifest, where: Path) -> tuple[RoutingSpace, tuple[PackageRoute, ...]]:
    try:
        space = RoutingSpace(**manifest.space)
    except UsageError as error:
        raise Refused(Code.ROUTES_DISAGREE, error.what, where=where, fix=AGAIN) from error
    routes = []
    problem = None
    for row in manifest.routes:
        sizes = Route(row.embedding, row.hidden, row.depth)
        if row.id >= len(space) or space.routes[row.id] != sizes:
            expected = space.routes[row.id].entry if row.id < len(space) else f"ids 0..{len(space) - 1}"
            problem = f"route {row.id} is {sizes.entry}, the routing space says {expected}"
        elif row.entry != sizes.entry:
            problem = f"route {row.id} has the entry {row.entry!r}, its sizes say {sizes.entry!r}"
        if problem:
            break
        routes.append(PackageRoute(row.id, sizes, row.paper_mflops, row.executed_mflops))
    ids = [route.id for route in routes]
    if problem is None and ids != sorted(set(ids)):
        problem = f"routes are not in ascending id without repeats: {ids}"
    if problem:
        raise Refused(Code.ROUTES_DISAGREE, problem, where=where, fix=AGAIN)
    return space, tuple(routes)
