"""tflite-support in an environment of its own: it reads the metadata of a written model back.

It needs Python 3.9 to 3.11, protobuf below 4 and libusb, which no toolkit of this project can live with. So
it is never imported here: a virtual environment in the user's cache holds it, a subprocess answers in JSON.
Only the metadata reader is used; a missing libusb, which that does not call, is replaced by an empty library.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canet_mobile.errors import CanetError

VERSION = "0.4.4"
PYTHONS = ((3, 9), (3, 10), (3, 11))
# The wheels that exist: every one of PYTHONS, but for Linux on ARM 3.9 alone.
WHEELS = {
    ("Linux", "x86_64"): PYTHONS,
    ("Linux", "aarch64"): PYTHONS[:1],
    ("Darwin", "x86_64"): PYTHONS,
}
LIBUSB = "libusb-1.0.so.0"
ENVIRONMENT_VARIABLE = "CANET_TFLITE_SUPPORT"
READ_SECONDS, INSTALL_SECONDS = 120, 900
READY = "ready"  # written last
INSTALL = "canet-mobile doctor --install tflite-support"
# The package's own name needs a real libusb; the module behind it does not.
IMPORT = """
try:
    from tflite_support import metadata
except ImportError:
    from tensorflow_lite_support.metadata.python import metadata
"""
READER = (
    IMPORT
    + """
import json, sys
displayer = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
names = displayer.get_packed_associated_file_list()
print(json.dumps({
    "metadata": json.loads(displayer.get_metadata_json()),
    "associated_files": {name: displayer.get_associated_file_buffer(name).decode() for name in names},
}))
"""
)


@dataclass(frozen=True)
class SupportStatus:
    """Whether tflite-support can read metadata back here.

    Args:
        version: of the one that is installed; None: none is.
        reason: why this platform cannot have it; None: :func:`install_support` can make it, or it is there.
    """

    version: str | None
    reason: str | None


def support_directory() -> Path:
    """Where the environment is: ``$CANET_TFLITE_SUPPORT``, or a folder of the user's cache."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "canet-mobile" / f"tflite-support-{VERSION}"


def support_status() -> SupportStatus:
    """Whether the environment is there, could be made, or cannot exist on this platform."""
    directory = support_directory()
    if (directory / READY).is_file() and _python(directory).exists():
        return SupportStatus(VERSION, None)
    machine = (platform.system(), platform.machine())
    if machine not in WHEELS:
        return SupportStatus(None, f"tflite-support {VERSION} has no wheel for {' '.join(machine)}")
    if _interpreter() is None:
        versions = " or ".join(f"{major}.{minor}" for major, minor in WHEELS[machine])
        reason = f"needs Python {versions} on the PATH, this is {platform.python_version()}"
        return SupportStatus(None, f"tflite-support {VERSION} {reason}")
    return SupportStatus(None, None)


def install_support(progress: Callable[[str], None] = lambda _: None) -> Path:
    """Make the environment (280 MB), or keep the one that is there.

    Returns:
        Its folder.

    Raises:
        CanetError: the platform cannot have it, or pip or the first import fails.
    """
    status, directory = support_status(), support_directory()
    if status.version is not None:
        return directory
    interpreter = _interpreter()
    if status.reason is not None or interpreter is None:
        raise CanetError(status.reason or "no Python for tflite-support")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        progress("make an environment for tflite-support")
        _run([interpreter, "-m", "venv", str(directory / "venv")], INSTALL_SECONDS)
        progress(f"install tflite-support {VERSION}")
        pip = [str(_python(directory)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--only-binary=:all:", f"tflite-support=={VERSION}"], INSTALL_SECONDS)
        _import(directory, progress)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    (directory / READY).write_text(f"tflite-support {VERSION}\n", encoding="utf-8")
    return directory


def read_metadata(model: Path) -> dict[str, Any]:
    """What tflite-support reads of a model: ``metadata`` (JSON) and ``associated_files`` (name -> text).

    Raises:
        CanetError: the environment is not there, or tflite-support does not read the file.
    """
    if support_status().version is None:
        raise CanetError("tflite-support is not installed", where=model, fix=INSTALL)
    directory = support_directory()
    found = _run(
        [str(_python(directory)), "-I", "-c", READER, str(model)], READ_SECONDS, directory, where=model
    )
    return json.loads(found.splitlines()[-1])


def _import(directory: Path, progress: Callable[[str], None]) -> None:
    """Import it once; where libusb is missing, with an empty library of its name."""
    command = [str(_python(directory)), "-I", "-c", IMPORT]
    try:
        _run(command, READ_SECONDS, directory)
    except CanetError as error:
        if LIBUSB not in error.what:
            raise
        progress(f"{LIBUSB} is not here: put an empty one in its place")
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise CanetError(f"tflite-support needs {LIBUSB}", fix="apt install libusb-1.0-0") from error
        source, library = directory / "empty.c", directory / "lib" / LIBUSB
        source.write_text("/* the metadata reader never calls libusb */\n", encoding="utf-8")
        library.parent.mkdir()
        build = [compiler, "-shared", "-o", str(library), f"-Wl,-soname,{LIBUSB}", str(source)]
        _run(build, READ_SECONDS)
        _run(command, READ_SECONDS, directory)


def _python(directory: Path) -> Path:
    return directory / "venv" / "bin" / "python"


def _interpreter() -> str | None:
    """A Python that tflite-support has a wheel for."""
    wanted = WHEELS.get((platform.system(), platform.machine()), ())
    if sys.version_info[:2] in wanted:
        return sys.executable
    for major, minor in reversed(wanted):
        found = shutil.which(f"python{major}.{minor}")
        if found is not None:
            try:
                _run([found, "-c", "import venv"], READ_SECONDS)
            except CanetError:
                continue
            return found
    return None


def _run(
    command: list[str], seconds: int, libraries: Path | None = None, *, where: object | None = None
) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if libraries is not None:
        paths = [str(libraries / "lib"), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
            encoding="utf-8",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CanetError(f"{Path(command[0]).name} did not run: {error}", where=where) from error
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise CanetError(f"tflite-support failed: {last.strip()}", where=where)
    return done.stdout
