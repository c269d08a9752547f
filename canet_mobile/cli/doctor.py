"""`canet-mobile doctor`: which toolkits, compilers and devices are here, and how to get the others."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import click


@dataclass(frozen=True)
class Finding:
    """One tool: what it is for, the version that is here (None: it is not), and the command that installs it.

    ``install`` says why it cannot be installed where this platform cannot have it.
    """

    name: str
    purpose: str
    found: str | None
    install: str


# The distributions behind each extra, in the order of pyproject.toml.
EXTRAS = {
    "executorch": ("executorch",),
    "coreml": ("coremltools", "threadpoolctl"),
    "tflite": ("litert-torch", "ai-edge-litert", "flatbuffers"),
    "onnx": ("onnx", "onnxruntime"),
}
# Programs that parts of the project call, as (name, purpose, how to install).
PROGRAMS = (
    ("g++", "native memory benchmark of ExecuTorch", "apt install g++"),
    ("adb", "Android emulators and phones", "install the Android platform tools"),
    ("xcrun", "iOS simulators and phones, Core ML itself", "install Xcode on a Mac"),
    ("qemu-aarch64", "emulated ARM64", "apt install qemu-user"),
)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def toolkits() -> list[Finding]:
    """What each export target needs."""
    rows = []
    for extra, distributions in EXTRAS.items():
        versions = {name: _version(name) for name in distributions}
        whole = all(versions.values())
        found = ", ".join(f"{name} {number}" for name, number in versions.items()) if whole else None
        purpose = f"export --target {extra}, parity, replay"
        rows.append(Finding(extra, purpose, found, f"pip install 'canet-mobile[{extra}]'"))
    return rows


def metadata_check() -> Finding:
    """tflite-support, in an environment of its own: it needs an older protobuf than the others."""
    from canet_export.tflite.support import support_status

    status = support_status()
    install = status.reason or "canet-mobile doctor --install tflite-support"
    return Finding("tflite-support", "reads TFLite metadata back", status.version, install)


def programs() -> list[Finding]:
    """Compilers, emulators and device bridges on the PATH."""
    return [Finding(name, purpose, shutil.which(name), how) for name, purpose, how in PROGRAMS]


def accelerator() -> Finding:
    """A GPU for training."""
    import torch

    found = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Finding("cuda", "training on a GPU", found, "install PyTorch with CUDA")


@click.command()
@click.option(
    "--install",
    type=click.Choice(["tflite-support"]),
    help="Set up the isolated environment that reads TFLite metadata back.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(*, install: str | None, as_json: bool) -> None:
    """Tell which toolkits, compilers, emulators and devices are here, and the command that installs each.

    Nothing is installed unless --install asks for it. What a platform cannot have is said with its reason.

    \b
    Examples:
      canet-mobile doctor
      canet-mobile doctor --install tflite-support
      canet-mobile doctor --json | jq '.tools[] | select(.found == null) | .install'
    """
    if install is not None:
        from canet_export.tflite.support import install_support

        install_support(lambda text: click.echo(text, err=True))
    rows = [*toolkits(), metadata_check(), *programs(), accelerator()]
    system = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "environment": sys.prefix,
    }
    if as_json:
        document = {"kind": "doctor", "system": system, "tools": [asdict(row) for row in rows]}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"Python {system['python']}, {system['platform']}\n")
    for row in rows:
        if row.found is not None:
            click.echo(f"  ok       {row.name:<16}{row.found:<64}{row.purpose}")
    for row in rows:
        if row.found is None:
            click.echo(f"  missing  {row.name:<16}{row.install:<64}{row.purpose}")
