"""Files that are either whole or absent: atomic writes, staged directories, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from canet_mobile.errors import CanetError

MANIFEST = "manifest.json"
AGAIN = "make the artefact again"


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


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically, keys in the given order, NaN refused."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, fix: str = AGAIN) -> Any:
    """Read a JSON document.

    Args:
        path: the file.
        fix: what helps when it is no JSON.

    Raises:
        CanetError: the file is missing, not UTF-8, or not JSON (line and column are named).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CanetError("no such file", where=path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CanetError(f"not valid JSON ({error})", where=path, fix=fix) from error


def refuse_existing(out: Path, *, force: bool) -> None:
    """Refuse to replace a folder without ``force``, and one that we did not make even with it.

    Raises:
        CanetError: ``out`` exists and may not be replaced.
    """
    above = next((folder for folder in out.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise CanetError("is a file, so no folder can be made in it", where=above, fix="choose another --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise CanetError(
            "already exists", where=out, fix="choose another --out or pass --force to replace it"
        )
    if not (out.is_dir() and (out / MANIFEST).is_file()):
        raise CanetError(
            f"is not an artefact of canet-mobile (it holds no {MANIFEST}), so --force will not delete it",
            where=out,
            fix="choose another --out",
        )


@contextmanager
def staged_directory(out: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes ``out`` when the block succeeds.

    Whatever goes wrong, ``out`` is what it was before: a failed or interrupted command leaves nothing
    half-written behind.
    """
    refuse_existing(out, force=force)
    with disk_errors(out):
        made = [folder for folder in out.parents if not folder.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        retired = stage.with_name(stage.name + ".old")
        try:
            stage.chmod(0o755)
            yield stage
            if out.exists():
                out.rename(retired)
            stage.rename(out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)
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
        if not path.is_file():
            raise CanetError("listed in the manifest but missing", where=path, fix=AGAIN)
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CanetError(
                f"has {size} bytes, the manifest says {entry['bytes']}: truncated or replaced",
                where=path,
                fix="make or copy the artefact again",
            )
        if sha256_file(path) != entry["sha256"]:
            raise CanetError(
                "its SHA-256 differs from the manifest's: the content was changed",
                where=path,
                fix="make or copy the artefact again",
            )
