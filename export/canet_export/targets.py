"""The targets: where each one's exporter is, what it can write, and what has to be installed for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from canet_export.job import ExportResult, Job, Progress, Quantization
from canet_mobile.errors import CanetError, UsageError, unknown_name

if TYPE_CHECKING:
    from canet_mobile.package.lists import Check


@dataclass(frozen=True, eq=False)
class Target:
    """A runtime that packages are made for.

    The package ``canet_export.<name>`` holds ``export.py`` with ``require_toolkit()`` and
    ``export(job, out_dir, progress) -> ExportResult``, and ``stored.py`` with
    ``check_stored(directory, job) -> Check``. All of them are imported when they are used.

    Args:
        name: ``executorch``, ...
        quantizations: the presets it can write.
        refusals: why it cannot write the others.
        lengths: whether it writes entries at several lengths.
        systems: ``sys.platform`` of the systems its toolkit has wheels for.
    """

    name: str
    quantizations: tuple[Quantization, ...]
    refusals: dict[str, str]
    lengths: bool = False
    systems: tuple[str, ...] = ("linux", "darwin", "win32")

    def require_toolkit(self) -> None:
        """Raises: CanetError: no toolkit for this system, or it is missing; names the extra to install."""
        if sys.platform not in self.systems:
            raise CanetError(
                f"{self.name} packages cannot be made on {sys.platform}: the toolkit has no wheel for it",
                fix=f"export on {' or '.join(SYSTEMS[name] for name in self.systems)}, or to another target",
            )
        self._function("export", "require_toolkit")()

    def export(self, job: Job, out_dir: Path, progress: Progress) -> ExportResult:
        """Write the model of ``job`` into the existing folder ``out_dir``."""
        return self._function("export", "export")(job, out_dir, progress)

    def check_stored(self, directory: Path, job: Job) -> Check:
        """Read integers, scales and other learnt numbers back from the written files, bit for bit."""
        return self._function("stored", "check_stored")(directory, job)

    def require_quantization(self, quantization: str) -> None:
        """Raises: UsageError: this target cannot write the preset; says why."""
        if quantization not in self.quantizations:
            why = self.refusals.get(quantization, "not built")
            raise UsageError(
                f"--quantize {quantization} is not possible for {self.name}: {why}",
                fix=f"--quantize {' or '.join(self.quantizations)}",
            )

    def _function(self, module: str, name: str) -> Callable:
        return getattr(import_module(f"canet_export.{self.name}.{module}"), name)


SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
POSIX = ("linux", "darwin")  # coremltools 9.0 and litert-converter 0.5.0 have no wheels for Windows
TARGETS = {
    target.name: target
    for target in (
        Target(
            "executorch",
            ("fp32", "int8", "int4"),
            {
                "fp16": "XNNPACK unpacks half weights anew in every call, which makes them slower than "
                "float32, and graphs that compute in half need a processor that does"
            },
            lengths=True,
        ),
        Target("coreml", ("fp32", "fp16", "int8", "int4"), {}, systems=POSIX),
        Target("tflite", ("fp32", "fp16", "int8", "int4"), {}, systems=POSIX),
        Target("onnx", ("fp32", "fp16", "int8", "int4"), {}),
    )
}


def find_targets(name: str) -> tuple[Target, ...]:
    """The target called ``name``, or every one for ``all``.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    if name == "all":
        return tuple(TARGETS.values())
    if name not in TARGETS:
        raise unknown_name("target", name, [*TARGETS, "all"])
    return (TARGETS[name],)
