"""What a wheel holds: everything the commands need, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked into an empty folder."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def test_every_package_of_the_tree_is_listed() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    )
    found = {"canet_mobile.schemas"}
    for top in (ROOT / "canet_mobile", ROOT / "export" / "canet_export"):
        for init in top.rglob("__init__.py"):
            found.add(".".join(init.parent.relative_to(top.parent).parts))
    assert listed == found


def test_the_oldest_python_can_install_what_is_pinned() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = document["project"]["requires-python"].removeprefix(">=")
    assert document["tool"]["mypy"]["python_version"] == oldest
    assert document["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Python {oldest} or later" in (ROOT / "README.md").read_text(encoding="utf-8")
    pins = [
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    ]
    asked = {name: wants for name in pins if (wants := _python_wanted(name))}
    assert {name: wants for name, wants in asked.items() if f"{oldest}.0" not in SpecifierSet(wants)} == {}
    assert "numpy" in asked


def _python_wanted(name: str) -> str | None:
    """What an installed distribution asks of Python; None where it asks nothing or is not here."""
    try:
        return metadata(name)["Requires-Python"]
    except PackageNotFoundError:
        return None


def test_the_wheel_holds_schemas_presets_data_and_licences(unpacked: Path) -> None:
    for schema in (ROOT / "schemas").glob("*.json"):
        assert (unpacked / "canet_mobile" / "schemas" / schema.name).read_bytes() == schema.read_bytes()
    for keys in ("presets.toml", "variants.toml"):
        assert (unpacked / "canet_mobile" / "run" / keys).is_file()
    assert (unpacked / "canet_mobile" / "data" / "embedded" / "interactions.csv.gz").is_file()
    (info,) = unpacked.glob("*.dist-info")
    assert {"LICENSE", "NOTICE"} <= {path.name for path in info.rglob("*")}


def test_the_wheel_alone_trains_evaluates_and_prints_costs(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}

    def call(*arguments: str) -> str:
        code = (
            "import canet_mobile, sys; from canet_mobile.cli.main import main;"
            f"assert canet_mobile.__file__.startswith({str(unpacked)!r}), canet_mobile.__file__; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    costs = json.loads(call("costs", "--items", "199013", "--length", "20", "--json"))
    assert costs["sasrec_full_paper_mflops"] == 115.214
    tiny = [
        "--set=embedding=8,16",
        "--set=hidden=8,16",
        "--set=depth=1,2",
        "--set=length=8",
        "--set=windows=1",
    ]
    call("train", *tiny, "--set=epochs=1", "--set=batch=256")
    assert "Markov" in call("evaluate", "--limit", "200")
