"""A package as one zip: only what its manifest lists is extracted, at the size the manifest says."""

from __future__ import annotations

import errno
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from canet_mobile.files import MANIFEST, disk_errors, wrong_size
from canet_mobile.package.manifest import AGAIN, Manifest, parse_manifest, require_bound
from canet_mobile.package.names import clash, leaves_the_package, odd_name
from canet_mobile.package.refusal import Code, Refused

# Our zips are stored, those of others deflated a little; what is far larger than its zip is a bomb.
MAX_TOTAL_BYTES = 4 << 30
MAX_RATIO, RATIO_SLACK_BYTES = 20, 1 << 20
MAX_MEMBERS = 10_000
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what every language's own reader can undo
ENCRYPTED = 0x1


def without_companions(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the names of a package's files from those that macOS puts beside files of others.

    Finder's ``.DS_Store`` and ``Icon`` with a carriage return, and ``._name`` or ``__MACOSX/`` for what its
    file system knows about ``name``.
    """
    kept: list[str] = []
    companions: list[str] = []
    for name in names:
        parts = name.split("/")
        beside = bool({"__MACOSX", ".DS_Store", "Icon\r"} & {*parts}) or any(
            p.startswith("._") for p in parts
        )
        (companions if beside else kept).append(name)
    return kept, companions


def extracted(path: Path) -> tuple[Path, list[str]]:
    """Extract a zipped package to a new temporary directory.

    The manifest stands at the top of the zip or in its one top folder. Members that it does not list are
    left in the zip; their names are returned so that the caller judges them as it would in a directory.

    Returns:
        The directory (the caller removes it) and the names of all members.

    Raises:
        Refused: not a zip, damaged, or a member's name or size is not safe or not as listed, or they are
            more than any package's, or than the zip can honestly hold. Nothing was written then.
    """
    with _zip_errors(path, "neither a directory nor a whole zip"), zipfile.ZipFile(path) as archive:
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


@contextmanager
def _zip_errors(where: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        # A place before the file's begin is the zip's fault; other errors of the system are not.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise Refused(Code.ARCHIVE_UNREADABLE, f"{what} ({error})", where=where, fix=AGAIN) from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Every file of the zip by its name inside the package; refuses names and kinds that are not safe."""
    found = archive.infolist()
    if len(found) > MAX_MEMBERS:
        raise _unsafe(f"holds {len(found):,} files, at most {MAX_MEMBERS:,} are read", path)
    for info in found:
        name = info.filename.removesuffix("/")
        if leaves_the_package(name):
            raise _unsafe(f"holds {info.filename!r}, a path that leaves the package", path)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(f"holds the link or device {info.filename!r}; a package holds plain files", path)
    files = [info for info in found if not info.is_dir()]
    named, _ = without_companions(info.filename for info in files)
    bad = next(filter(None, map(odd_name, named)), None) or clash(named)
    if bad:
        raise _unsafe(bad, path)
    tops = {name.partition("/")[0] for name in named if "/" in name}
    inside = MANIFEST not in named and len(tops) == 1
    prefix = f"{tops.pop()}/" if inside else ""
    return {info.filename.removeprefix(prefix): info for info in files}


def _unsafe(what: str, path: Path) -> Refused:
    return Refused(Code.ARCHIVE_UNSAFE, what, where=path, fix=AGAIN)


def _manifest(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Manifest:
    info = members.get(MANIFEST)
    if info is None:
        raise Refused(
            Code.MANIFEST_MISSING, f"holds no {MANIFEST}, so it is not a package", where=path, fix=AGAIN
        )
    where = path / MANIFEST
    require_bound(MANIFEST, info.file_size, where)
    return parse_manifest(_read(archive, info, where), where)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: Path) -> bytes:
    _require_plain(info, where)
    with _zip_errors(where, "is damaged in the zip"):
        return archive.read(info)


def _require_plain(info: zipfile.ZipInfo, where: Path) -> None:
    if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
        how = "encrypted" if info.flag_bits & ENCRYPTED else f"compressed by method {info.compress_type}"
        raise Refused(
            Code.ARCHIVE_UNREADABLE,
            f"is {how}; a package's zip is stored or deflated",
            where=where,
            fix=AGAIN,
        )


def _require_sizes(path: Path, members: dict[str, zipfile.ZipInfo], manifest: Manifest) -> None:
    """Every listed file is there at its size, and all of them are no more than this zip can honestly hold."""
    total = 0
    for file in manifest.files:
        info, where = members.get(file.name), path / file.name
        if info is None:
            raise Refused(Code.FILE_MISSING, "listed in the manifest but missing", where=where, fix=AGAIN)
        if info.file_size != file.bytes:
            raise Refused(Code.SIZE_MISMATCH, wrong_size(info.file_size, file.bytes), where=where, fix=AGAIN)
        _require_plain(info, where)
        total += info.file_size
    here = path.stat().st_size
    most = min(MAX_TOTAL_BYTES, MAX_RATIO * here + RATIO_SLACK_BYTES)
    if total > most:
        raise Refused(
            Code.ARCHIVE_TOO_LARGE,
            f"would unpack to {total:,} bytes from {here:,}, more than the {most:,} that a package may have; "
            "nothing was written",
            where=path,
            fix="if it is yours, unpack it by hand and give the folder",
        )


def _write(
    path: Path,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    manifest: Manifest,
    directory: Path,
) -> None:
    (directory / MANIFEST).write_bytes(_read(archive, members[MANIFEST], path / MANIFEST))
    for file in manifest.files:
        target = directory / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            _zip_errors(path / file.name, "is damaged in the zip"),
            archive.open(members[file.name]) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, 1 << 20)
