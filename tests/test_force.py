"""Every command that can replace something replaces an artefact of the kind it makes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_dataset
from replay_toys import toy_canet, toy_dataset, toy_run

from canet_mobile.cli.main import run
from canet_mobile.files import MANIFEST, write_json

# A command that makes a folder -> the kind of that folder, and how it is called.
FOLDERS = {
    "data import": ("dataset", ["data", "import", "log.csv", "--min-item-count=1"]),
    "train": ("run", ["train", "--data", "small"]),
    "route": ("run", ["route", "runs/toy"]),
    "compare": ("comparison", ["compare", "--data", "small", "--models", "fpmc"]),
    "export": ("package", ["export", "runs/toy", "--target", "onnx", "--k", "10"]),
    "demo": ("demo", ["demo"]),
}
FILES = {
    "evaluate": ["evaluate", "runs/toy", "--out"],
    "parity": ["parity", "package", "--out"],
    "replay": ["replay", "package", "--out"],
    "replay, costs": ["replay", "package", "--costs-out"],
}
EXTENSION = {"manifest_version": 3, "name": "Tab tidier", "version": "1.0"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set, a log and a finished run; what a command may write besides stays out of the way."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "small")
    (tmp_path / "small.csv").rename(tmp_path / "log.csv")
    toy_run(tmp_path / "runs" / "toy", toy_dataset(tmp_path / "toy-set"), toy_canet())
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def other(kind: str) -> dict[str, object]:
    """The manifest of an artefact of ours of another kind."""
    found = "run" if kind != "run" else "dataset"
    return {"schema_version": 1, "kind": found, "created_by": "canet-mobile 0.1.0"}


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize("whose", ["browser extension", "another kind of ours", "a file"])
@pytest.mark.parametrize("command", FOLDERS)
def test_no_command_replaces_a_folder_of_another_kind(
    command: str, whose: str, force: tuple[str, ...], project: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    kind, arguments = FOLDERS[command]
    if whose == "a file":
        (project / "out").write_text("thesis", encoding="utf-8")
    else:
        write_json(project / "out" / MANIFEST, other(kind) if "ours" in whose else EXTENSION)
        (project / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    before = everything(project)
    assert run([*arguments, "--out", "out", *force]) == 1
    assert everything(project) == before
    assert "error: out: is " in (said := capsys.readouterr().err) and "so it is not replaced" in said


@pytest.mark.parametrize("command", FILES)
def test_no_report_is_written_over_somebody_elses_file(
    command: str, project: Path, capsys: pytest.CaptureFixture
) -> None:
    for number, text in enumerate(("thesis", "{}", '{"kind": "run", "schema_version": 1}')):
        (project / f"{number}.json").write_text(text, encoding="utf-8")
        before = everything(project)
        assert run([*FILES[command], f"{number}.json"]) == 1
        assert everything(project) == before
        assert "so it is not overwritten" in capsys.readouterr().err


def test_a_zip_of_somebody_else_is_kept(project: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    (project / "out.zip").write_bytes(b"photos")
    _, arguments = FOLDERS["export"]
    for force in ((), ("--force",)):
        before = everything(project)
        assert run([*arguments, "--zip", "--out", "out", *force]) == 1
        assert everything(project) == before
        assert "out.zip: exists and is no package of canet-mobile" in capsys.readouterr().err
    (project / "out.zip").unlink()
    assert run([*arguments, "--zip", "--out", "out", "--users", "0"]) == 0
    assert run([*arguments, "--zip", "--out", "out", "--users", "0"]) == 1
    assert run([*arguments, "--zip", "--out", "out", "--users", "0", "--force"]) == 0
