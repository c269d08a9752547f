"""Files that are either whole or absent: atomic writes, staged directories, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from canet_mobile.errors import CanetError
from canet_mobile.strict_json import JsonProblem, parse_json

MANIFEST = "manifest.json"
AGAIN = "make the artefact again"
KINDS = (
    "dataset",
    "run",
    "package",
    "comparison",
    "demo",
)  # of folders; a report's kind is its schema's name
REPLACES = "replaces"  # in a manifest: the folder beside it whose place this one takes when it is whole
OLD_DEMO = {"schema_version": 1, "kind": "demo"}
MAX_DOCUMENT_BYTES = 64 << 20  # no manifest and no report of ours comes near it


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn 'no space' and 'permission denied' into errors that name the target."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CanetError(
                "no space left on the device; nothing was written",
                where=target,
                fix="free some space or choose another folder with --out",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CanetError(
                f"cannot write here ({error.strerror})", where=target, fix="choose a folder you may write to"
            ) from error
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` only when the block succeeds."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically as UTF-8 with line ends as they are, whatever the platform and its locale.

    Names of files that are not UTF-8 reach Python as lone surrogates; they become question marks.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically, keys in the given order, NaN refused."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, fix: str = AGAIN) -> Any:
    """Read a JSON document.

    Args:
        path: the file.
        fix: what helps when it is no JSON.

    Raises:
        CanetError: the file is missing, too large, or no JSON that every parser reads alike, see
            :func:`canet_mobile.strict_json.parse_json`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise CanetError(f"has {size:,} bytes; no document of ours is that large", where=path, fix=fix)
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CanetError("no such file", where=path) from None
    except JsonProblem as error:
        raise CanetError(str(error), where=path, fix=fix) from error


def manifest_of(path: Path) -> dict[str, Any] | None:
    """What a folder, a zipped package or a report says about itself, when canet-mobile made it.

    Other programs have a ``manifest.json`` too (browser extensions, web apps); ours names its kind, the
    version of its schema, and us. Nothing is verified: the answer says whose it is, not that it is whole.

    Args:
        path: a folder with a manifest, a zip of such a folder, or a JSON document.

    Returns:
        The document, or None for everything that is not ours.
    """
    file = path / MANIFEST if path.is_dir() else path
    try:
        if not file.is_file() or (path.is_file() and file.stat().st_size == 0):
            return None
        document = parse_json(_zipped_manifest(file) if zipfile.is_zipfile(file) else _bounded(file))
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("schema_version"), int):
        return None
    # A demo of version 0.1 says its kind and nothing else.
    ours = str(document.get("created_by", "")).startswith("canet-mobile") or document == OLD_DEMO
    return document if ours else None


def kind_of(path: Path) -> str | None:
    """The kind of an artefact or report of ours, as :func:`manifest_of` finds it; None for anything else."""
    kind = (manifest_of(path) or {}).get("kind")
    return kind if isinstance(kind, str) else None


def _bounded(file: Path) -> bytes:
    return file.read_bytes() if file.stat().st_size <= MAX_DOCUMENT_BYTES else b""


def _zipped_manifest(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            top, _, name = info.filename.rpartition("/")
            if name == MANIFEST and "/" not in top and info.file_size <= MAX_DOCUMENT_BYTES:
                return archive.read(info)
    return b""


def _is_taken(out: Path) -> bool:
    """Whether something stands there that a new artefact would replace; an empty folder is nothing."""
    return out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir())))


def refuse_existing(out: Path, *, force: bool, kind: str) -> None:
    """Refuse to replace a folder without ``force``, and one of another kind than is being made even with it.

    Args:
        out: the folder to make.
        force: replace an older one.
        kind: what is being made, one of :data:`KINDS`.

    Raises:
        CanetError: ``out`` exists and may not be replaced.
    """
    if out.name in ("", ".."):
        raise CanetError("is no name of a folder to make", where=out, fix="name a folder with --out")
    above = next((folder for folder in out.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise CanetError("is a file, so no folder can be made in it", where=above, fix="choose another --out")
    if not _is_taken(out):
        return
    found = kind_of(out) if out.is_dir() else None
    if found != kind:
        if out.is_dir() and found is None:
            what = f"is not an artefact of canet-mobile (no {MANIFEST} of ours is in it)"
        else:
            what = f"is a {found}, not a {kind}" if out.is_dir() else "is not a folder"
        raise CanetError(f"{what}, so it is not replaced, with --force or without", where=out,
                         fix="choose another --out")  # fmt: skip
    if not force:
        raise CanetError(
            "already exists", where=out, fix="choose another --out or pass --force to replace it"
        )


def refuse_file(out: Path | None, *, kind: str) -> None:
    """Refuse to write a file over anything but an older one of the same kind.

    Args:
        out: the file to write; None: there is nothing to write.
        kind: of the report, or ``package`` for a zipped one.

    Raises:
        CanetError: ``out`` is a folder, a device, or a file that is not one of ours of that kind.
    """
    if out is None or not (out.exists() or out.is_symlink()):
        return
    if out.exists() and not out.is_file():
        raise CanetError("is no plain file", where=out, fix="name a file that can be written")
    if out.is_file() and (out.stat().st_size == 0 or kind_of(out) == kind):
        return
    raise CanetError(
        f"exists and is no {kind} of canet-mobile, so it is not overwritten",
        where=out,
        fix="choose another name",
    )


def place_for(out: Path, *, force: bool, kind: str) -> Path:
    """Where to make an artefact that takes hours, so that an older one stands until the new one is whole.

    Returns:
        ``out``; or, where an older one stands that ``force`` replaces, ``<out>.new`` beside it, which may
        hold an earlier attempt. The maker writes :data:`REPLACES` into its manifest and ends with
        :func:`take_place`.

    Raises:
        CanetError: ``out`` may not be replaced, or ``<out>.new`` is something else.
    """
    refuse_existing(out, force=force, kind=kind)
    if not _is_taken(out):
        return out
    place = out.with_name(f"{out.name}.new")
    if _is_taken(place) and (manifest_of(place) or {}).get(REPLACES) != out.name:
        raise CanetError(
            f"stands where the new {kind} would be made",
            where=place,
            fix="rename it, or choose another --out",
        )
    return place


def take_place(new: Path, out: Path) -> None:
    """Put a whole artefact where an older one may stand, which is deleted only when that is done."""
    retired = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    try:
        if _is_taken(out):
            out.rename(retired / out.name)
        elif out.exists():
            out.rmdir()
        try:
            new.rename(out)
        except BaseException:
            if _is_taken(retired / out.name):
                (retired / out.name).rename(out)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)  # of a link: the link, and not what it leads to


@contextmanager
def staged_directory(out: Path, *, force: bool, kind: str) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes ``out`` when the block succeeds.

    Whatever goes wrong, ``out`` is what it was before: a failed or interrupted command leaves nothing
    half-written behind. Arguments are those of :func:`refuse_existing`.
    """
    refuse_existing(out, force=force, kind=kind)
    with disk_errors(out):
        made = [folder for folder in out.parents if not folder.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            stage.chmod(0o755)
            yield stage
            refuse_existing(out, force=force, kind=kind)  # somebody may have come meanwhile
            take_place(stage, out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            for folder in made if not out.exists() else ():
                with suppress(OSError):  # something else may stand in it by now
                    folder.rmdir()


def describe_files(directory: Path, names: list[str]) -> list[dict[str, Any]]:
    """Name, size in bytes and SHA-256 of each file, for a manifest."""
    return [
        {"name": name, "bytes": (directory / name).stat().st_size, "sha256": sha256_file(directory / name)}
        for name in names
    ]


def verify_files(directory: Path, entries: list[Mapping[str, Any]]) -> None:
    """Check every file a manifest lists before any of them is used.

    Raises:
        CanetError: a file is missing, truncated or altered; the message names it.
    """
    for entry in entries:
        path = directory / entry["name"]
        found = size_problem(path, entry["bytes"]) or hash_problem(path, entry["sha256"])
        if found is not None:
            raise CanetError(found[1], where=path, fix="make or copy the artefact again")


def size_problem(path: Path, listed: int) -> tuple[str, str] | None:
    """Whether a listed file is not there, or not at its size: a code and a sentence, else None."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    if size is None:
        return "file_missing", "listed in the manifest but missing"
    return None if size == listed else ("size_mismatch", wrong_size(size, listed))


def wrong_size(found: int, listed: int) -> str:
    """The sentence about a file of another size than its manifest's."""
    return f"has {found} bytes, the manifest says {listed}: truncated or replaced"


def hash_problem(path: Path, listed: str) -> tuple[str, str] | None:
    """Whether a listed file cannot be read or was changed: a code and a sentence, else None."""
    try:
        if sha256_file(path) == listed:
            return None
    except OSError as error:
        return "file_missing", f"listed in the manifest but cannot be read ({error.strerror})"
    return "hash_mismatch", "its SHA-256 differs from the manifest's: the content was changed"


def shown_path(path: Path) -> str:
    """A path as a report may carry it to others: below the working directory, else its name alone."""
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.name
