"""Nothing is sent: what toolkits would report and keep, turned off before they are imported.

docs/privacy.md says what each was seen to do, and how it is watched.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# ONNX Runtime from 1.29 on reads it when it is imported: no device id, no event database, no upload. Its call
# alone comes too late, the device id is written by then.
ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"
SWITCHES = {
    ONNXRUNTIME_SWITCH: "1",
    # coremltools imports transformers, and that huggingface_hub. Neither has been seen to open a socket here;
    # what they could send or fetch is nothing of ours.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
# Folders that toolkits would make where nobody looks. torch._dynamo makes its own when it is imported, as
# Lightning does, compiled or not; Polars writes rows of the log to /var/tmp when memory is short.
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "torch", "POLARS_TEMP_DIR": "polars", "POLARS_OOC_SPILL_DIR": "spill"}


def switch_off() -> None:
    """Set every switch for this process and those it starts; a value that says otherwise is overruled.

    Toolkits' folders become one temporary folder that ends with this process; one that the user named, or the
    process that started this one, is used as it is.
    """
    os.environ.update(SWITCHES)
    wanted = {name: part for name, part in FOLDERS.items() if name not in os.environ}
    if wanted:
        # On a disk rather than in memory, where nobody says otherwise: /tmp is memory on many systems.
        disk = "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else None
        try:
            folder = tempfile.mkdtemp(prefix="canet-", dir=disk)
        except OSError:  # nowhere to write: what needs to will say so, --help does not
            return
        atexit.register(_remove, folder, os.getpid())
        os.environ.update({name: str(Path(folder, part)) for name, part in wanted.items()})


def _remove(folder: str, maker: int) -> None:
    if os.getpid() == maker:  # a forked child may run what its parent registered
        shutil.rmtree(folder, ignore_errors=True)


def onnxruntime(*parts: str) -> Any:
    """ONNX Runtime, imported with its telemetry off: by the environment switch, and by its call.

    Every user of it calls this; a test forbids the plain import. Where telemetry is seen nevertheless, one
    warning on stderr says so: whatever the import left open or wrote is looked at, so that a version that
    keeps neither promise is found.

    Args:
        parts: modules of it that are imported as well, such as ``tools.ort_format_model``.

    Raises:
        ImportError: it is not installed.
    """
    first = "onnxruntime" not in sys.modules
    was_off = os.environ.get(ONNXRUNTIME_SWITCH) == SWITCHES[ONNXRUNTIME_SWITCH]
    os.environ[ONNXRUNTIME_SWITCH] = SWITCHES[ONNXRUNTIME_SWITCH]
    before = _traces() if first else set()
    import onnxruntime as module

    for part in parts:
        importlib.import_module(f"onnxruntime.{part}")
    after = _traces() if first else set()
    call = getattr(module, "disable_telemetry_events", None)
    if call is not None:
        call()
    if not first and not was_off:
        _warn("it was imported before canet-mobile, which turns it off", f"set {ONNXRUNTIME_SWITCH}=1")
    elif after - before:
        _warn(f"{ONNXRUNTIME_SWITCH}=1 did not keep it from {', '.join(sorted(after - before))}")
    elif first and call is None:
        _warn("it has no disable_telemetry_events()")
    return module


def _traces() -> set[str]:
    """What telemetry leaves: its files, by name and time; on Linux also any open file or socket."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path's raises where nobody has a home
    caches = [Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")]
    caches += [home / "Library" / name for name in ("Caches", "Application Support")]
    kept = [file for cache in caches for file in (cache / "Microsoft/DeveloperTools/.onnxruntime").glob("*")]
    files = [Path(tempfile.gettempdir()) / ".ses", *kept]
    found = {f"writing {file} ({file.stat().st_mtime_ns})" for file in files if file.is_file()}
    open_files = Path("/proc/self/fd")
    if open_files.is_dir():
        for entry in open_files.iterdir():
            try:
                name = str(entry.readlink())
            except OSError:  # the listing's own
                continue
            if name.startswith(("/", "socket:")) and not name.startswith(("/dev/", "/proc/")):
                found.add(f"opening {name}")
    return found


def _warn(what: str, fix: str = "install another version of onnxruntime") -> None:
    sys.stderr.write(f"warning: ONNX Runtime's telemetry may be on: {what}\n  fix: {fix}\n")
