"""A package as one zip: only what its manifest lists is extracted, at the size the manifest says."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from canet_mobile.errors import CanetError
from canet_mobile.files import MANIFEST, disk_errors
from canet_mobile.schema import validate

MAX_MANIFEST_BYTES = 16 << 20
# Our zips are stored, those of others deflated a little; what is far larger than its zip is a bomb.
MAX_TOTAL_BYTES = 4 << 30
MAX_RATIO, RATIO_SLACK_BYTES = 20, 1 << 20
_AGAIN = "export or copy the package again"


def without_companions(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the names of a package's files from those that macOS puts beside files of others.

    Finder's ``.DS_Store``, and ``._name`` or ``__MACOSX/`` for what its file system knows about ``name``.
    """
    kept: list[str] = []
    companions: list[str] = []
    for name in names:
        parts = name.split("/")
        beside = "__MACOSX" in parts or ".DS_Store" in parts or any(part.startswith("._") for part in parts)
        (companions if beside else kept).append(name)
    return kept, companions


def extracted(path: Path) -> tuple[Path, list[str]]:
    """Extract a zipped package to a new temporary directory.

    The manifest stands at the top of the zip or in its one top folder. Members that it does not list are
    left in the zip; their names are returned so that the caller judges them as it would in a directory.

    Returns:
        The directory (the caller removes it) and the names of all members.

    Raises:
        CanetError: not a zip, damaged, or a member's name or size is not safe or not as listed, or they are
            more than any package's, or than the zip can honestly hold. Nothing was written then.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            manifest = _manifest(path, archive, members)
            _require_sizes(path, members, manifest)
            directory = Path(tempfile.mkdtemp(prefix="canet-package-"))
            try:
                with disk_errors(directory):
                    _write(path, archive, members, manifest, directory)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            return directory, sorted(members)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CanetError(
            f"is not a package: neither a directory nor a whole zip ({error})", where=path, fix=_AGAIN
        ) from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Every file of the zip by its name inside the package; refuses names that leave it."""
    files = [info for info in archive.infolist() if not info.is_dir()]
    for info in files:
        parts = PurePosixPath(info.filename).parts
        if "\\" in info.filename or ":" in info.filename or info.filename.startswith("/") or ".." in parts:
            raise CanetError(f"holds {info.filename!r}, a path that leaves the package", where=path)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise CanetError(f"holds the link {info.filename!r}; a package holds plain files", where=path)
    named, _ = without_companions(info.filename for info in files)
    tops = {name.partition("/")[0] for name in named if "/" in name}
    inside = MANIFEST not in named and len(tops) == 1
    prefix = f"{tops.pop()}/" if inside else ""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in files:
        name = info.filename.removeprefix(prefix)
        if name in members:
            raise CanetError(f"holds {info.filename!r} twice", where=path, fix=_AGAIN)
        members[name] = info
    return members


def _manifest(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    info = members.get(MANIFEST)
    if info is None:
        raise CanetError(f"holds no {MANIFEST}, so it is not a package", where=path)
    if info.file_size > MAX_MANIFEST_BYTES:
        raise CanetError(f"{MANIFEST} has {info.file_size} bytes; no manifest is that large", where=path)
    where = path / MANIFEST
    try:
        manifest = json.loads(archive.read(info).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CanetError(f"not valid JSON ({error})", where=where, fix=_AGAIN) from error
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind != "package":
        raise CanetError(f"is the manifest of a {kind!r}, not of a package", where=where)
    validate(manifest, "manifest", where=where)
    return manifest


def _require_sizes(path: Path, members: dict[str, zipfile.ZipInfo], manifest: dict[str, Any]) -> None:
    """Every listed file is there at its size, and all of them are no more than this zip can honestly hold."""
    total = 0
    for entry in manifest["files"]:
        name, info = entry["name"], members.get(entry["name"])
        if info is None:
            raise CanetError("listed in the manifest but missing", where=path / name, fix=_AGAIN)
        if info.file_size != entry["bytes"]:
            raise CanetError(
                f"has {info.file_size} bytes, the manifest says {entry['bytes']}: truncated or replaced",
                where=path / name,
                fix=_AGAIN,
            )
        total += info.file_size
    here = path.stat().st_size
    most = min(MAX_TOTAL_BYTES, MAX_RATIO * here + RATIO_SLACK_BYTES)
    if total > most:
        raise CanetError(
            f"would unpack to {total:,} bytes from {here:,}, more than the {most:,} that a package may have; "
            "nothing was written",
            where=path,
            fix="if it is yours, unpack it by hand and give the folder",
        )


def _write(
    path: Path,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    manifest: dict[str, Any],
    directory: Path,
) -> None:
    (directory / MANIFEST).write_bytes(archive.read(members[MANIFEST]))
    for entry in manifest["files"]:
        name, info = entry["name"], members[entry["name"]]
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(info) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CanetError(f"is damaged in the zip ({error})", where=path / name, fix=_AGAIN) from error
