"""Which room may look into which: read from the imports, lazy ones and those for types alone included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up: a room imports from rooms below it alone. docs/architecture.md draws the same.
FLOORS = (
    "ground",
    "data",
    "model",
    "run",
    "evaluate",
    "routing",
    "train",
    "package",
    "replay",
    "canet_export",
    "compare",
    "cli",
)
# What replay needs of the checkpoint will travel in the replay set; until then this one module asks for it.
WAITING = "canet_mobile.replay.reference"
NAMES_OF_MODEL = {"canet_mobile.model.space", "canet_mobile.model.points"}
ON_A_PHONE = ("package", "replay")  # rooms that the apps repeat: no training, no export, no PyTorch
TAKES_TENSORS = "canet_mobile.replay.runtimes.executorch"  # its vendor's binding takes torch tensors
COMPARED = ("fpmc", "gru4rec", "nextitnet", "skiprec", "autodim")


def modules() -> dict[str, Path]:
    found = {}
    for base in (ROOT / "canet_mobile", ROOT / "export" / "canet_export"):
        for path in base.rglob("*.py"):
            parts = path.relative_to(base.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in inner if name in MODULES] or [node.module]


def room(module: str) -> str:
    """The room a module stands in; modules and folders beside the rooms are the ground."""
    parts = module.split(".")
    if parts[0] == "canet_export":
        return "canet_export"
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "ground"


def ours() -> list[tuple[str, str]]:
    return [
        (module, wanted)
        for module, path in MODULES.items()
        for wanted in imports(path)
        if wanted.partition(".")[0] in ("canet_mobile", "canet_export")
    ]


def test_every_room_is_on_a_floor() -> None:
    folders = {path.parent.name for path in (ROOT / "canet_mobile").glob("*/__init__.py")}
    assert folders | {"ground", "canet_export"} == set(FLOORS)


@pytest.mark.parametrize("upper", [floor for floor in FLOORS if floor != "ground"])
def test_no_import_runs_back(upper: str) -> None:
    back = [
        f"{module} -> {wanted}"
        for module, wanted in ours()
        if room(module) == upper and FLOORS.index(room(wanted)) > FLOORS.index(upper) and module != WAITING
    ]
    assert not back


def test_the_ground_imports_no_room() -> None:
    starts = {"canet_mobile.__main__"}
    assert not [
        f"{module} -> {wanted}"
        for module, wanted in ours()
        if room(module) == "ground" and room(wanted) != "ground" and module not in starts
    ]


def test_what_an_app_repeats_knows_no_training_and_no_export() -> None:
    allowed = {"ground", *ON_A_PHONE}
    strange = [
        f"{module} -> {wanted}"
        for module, wanted in ours()
        if room(module) in ON_A_PHONE and module != WAITING
        if room(wanted) not in allowed and wanted not in NAMES_OF_MODEL
    ]
    assert strange == [
        # Metrics are the judge's, which comes with the replay set.
        "canet_mobile.replay.replay -> canet_mobile.data.lists",
        "canet_mobile.replay.replay -> canet_mobile.evaluate.metrics",
    ]


def test_what_an_app_repeats_needs_no_pytorch() -> None:
    found = {
        module
        for module, path in MODULES.items()
        if room(module) in ON_A_PHONE
        if any(wanted.partition(".")[0] == "torch" for wanted in imports(path))
    }
    assert found == {WAITING, TAKES_TENSORS}


def test_training_does_not_know_the_compared_methods_by_name() -> None:
    for module, path in MODULES.items():
        if room(module) in ("train", "routing"):
            words = set(re.findall(r"[a-z0-9]+", path.read_text(encoding="utf-8").lower()))
            assert words.isdisjoint(COMPARED), module


def test_the_map_shows_every_room() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [floor for floor in FLOORS if floor not in ("ground", "canet_export", "cli")]
    order = [drawn.index(f"\n  {floor}/") for floor in rooms]
    assert order == sorted(order), "docs/architecture.md lists the rooms from the ground up"
