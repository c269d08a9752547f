"""The command line as a whole: help, exit codes, and errors a user can act on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_dataset

from canet_mobile.cli import demo as demo_module
from canet_mobile.cli import main as main_module
from canet_mobile.cli.main import COMMANDS, run
from canet_mobile.files import read_json, write_json

TINY = ["--set=embedding=8,16", "--set=hidden=8,16", "--set=depth=1,2", "--set=length=8", "--set=epochs=1"]
TINY += ["--set=threads=1"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture) -> None:
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: canet-mobile" in text and "Examples:" in text and f"canet-mobile {command}" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from canet_mobile.cli.main import run; run(['--help']); run(['train', '--help']);"
        "heavy = {'torch', 'polars', 'numpy', 'rich', 'executorch'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "Did you mean 'train'"),
        (["train", "--nonsense"], 2, "No such option"),
        (["train", "--preset", "qick"], 2, "did you mean 'quick'"),
        (["train", "--data", "nowhere"], 1, "nowhere"),
        (["train", "--resume", "nowhere"], 1, "nowhere"),
        (["train", "--resume", "nowhere", "--set", "lr=1"], 2, "keeps its own configuration"),
        (["route"], 1, "canet-mobile train"),
        (["route", "nowhere"], 1, "nowhere"),
        (["evaluate"], 1, "canet-mobile train"),
        (["export", "--target", "executorch"], 1, "canet-mobile train"),
        (["export", "--target", "coremll"], 2, "coreml"),
        (["parity", "nowhere"], 1, "nowhere"),
        (["replay", "nowhere"], 1, "nowhere"),
        (["inspect", "nowhere"], 1, "nowhere"),
        (["data", "import", "nowhere.csv", "--out", "x"], 1, "nowhere.csv"),
    ],
)
def test_errors_have_their_exit_code_and_say_what_and_where(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_later_commands_take_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "small")
    assert run(["train", "--data", "small", *TINY, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["status"] == "finished" and manifest["name"] == "small-canet-sandwich-1"
    assert run(["train", "--data", "small", *TINY]) == 0
    assert "runs/small-canet-sandwich-2" in capsys.readouterr().out
    assert run(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["name"] == "small-canet-sandwich-2"
    assert run(["inspect", "--json"]) == 0
    assert "small-canet-sandwich-2" in capsys.readouterr().out


def test_a_quick_look_at_a_plain_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "small")
    arguments = ["train", "--data", "small", "--model", "sasrec", "--width", "8", "--depth", "1"]
    assert run([*arguments, "--set=epochs=1", "--set=length=8"]) == 0
    assert run(["evaluate"]) == 0
    assert "Markov" in capsys.readouterr().out


def test_the_demo_keeps_what_is_done_and_stops_at_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    called: list[list[str]] = []

    def failing(arguments: list[str]) -> int:
        called.append(list(arguments))
        return 3 if arguments[0] == "parity" else 0

    monkeypatch.setattr(demo_module, "_finished", lambda run_directory: True)
    write_json(tmp_path / "demo" / "manifest.json", {"schema_version": 1, "kind": "demo"})
    (tmp_path / "demo" / "run").mkdir()
    real = run
    monkeypatch.setattr(main_module, "run", failing)
    assert real(["demo"]) == 1
    assert [arguments[0] for arguments in called] == ["evaluate", "export", "parity"]
    captured = capsys.readouterr()
    assert "kept: demo/run" in captured.out and "exit code 3" in captured.err


@pytest.mark.parametrize("options", [(), ("--force",)])
@pytest.mark.parametrize("name", ["thesis.txt", "run/manifest.json", "manifest.json"])
def test_the_demo_touches_nothing_that_it_did_not_make(
    options: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop" / name).parent.mkdir(parents=True)
    about = {"schema_version": 1, "kind": "run", "created_by": "canet-mobile 0.1.0"}
    write_json(tmp_path / "shop" / name, about)
    before = (tmp_path / "shop" / name).read_bytes()
    assert run(["demo", "--out", "shop", *options]) == 1
    assert (tmp_path / "shop" / name).read_bytes() == before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "shop" / name]
    assert "not replaced" in capsys.readouterr().err


def test_a_demo_begun_anew_deletes_the_older_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "demo" / "manifest.json", {"schema_version": 1, "kind": "demo"})
    (tmp_path / "demo" / "parity.json").touch()
    real = run
    monkeypatch.setattr(main_module, "run", lambda arguments: 1)
    assert real(["demo", "--force"]) == 1
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["manifest.json"]
    assert read_json(tmp_path / "demo" / "manifest.json")["kind"] == "demo"
