"""What is installed, and how to get the rest."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from canet_mobile.cli import doctor as module
from canet_mobile.cli.doctor import EXTRAS, doctor

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))


def found(*arguments: str) -> dict[str, dict]:
    result = CliRunner().invoke(doctor, [*arguments, "--json"])
    assert result.exit_code == 0, result.exception
    return {row["name"]: row for row in json.loads(result.stdout)["tools"]}


def test_extras_are_those_of_the_package() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    for extra, distributions in EXTRAS.items():
        assert {requirement.split(">")[0] for requirement in extras[extra]} == set(distributions)


def test_what_is_here_has_its_version_and_what_is_not_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    assert found()["onnx"]["found"].endswith(f"onnxruntime {version('onnxruntime')}")
    monkeypatch.setattr(module, "_version", lambda _: None)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    rows = found()
    for extra in EXTRAS:
        assert rows[extra]["found"] is None
        assert rows[extra]["install"] == f"pip install 'canet-mobile[{extra}]'"
    assert rows["adb"]["found"] is None
    text = CliRunner().invoke(doctor, []).stdout
    assert "missing  coreml" in text
    assert "pip install 'canet-mobile[coreml]'" in text
