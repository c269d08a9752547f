"""The embedded data set and the `data` commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from canet_mobile.cli.data import data, parse_duration
from canet_mobile.data.dataset import load_dataset
from canet_mobile.data.embedded_set import embedded_dataset
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.schema import validate


@pytest.fixture(scope="module")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_dataset(tmp_path_factory.mktemp("embedded") / "online-retail").directory


def test_embedded_counts_are_those_of_the_documentation(embedded_folder: Path) -> None:
    dataset = load_dataset(embedded_folder)
    assert dataset.manifest["counts"] == {
        "histories": 4067, "users": 4067, "items": 3457, "interactions": 391697,
    }  # fmt: skip
    assert dataset.item_table()["title"].null_count() == 0


def test_embedded_is_imported_once(embedded_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in embedded_folder.iterdir()}
    assert embedded_dataset(embedded_folder).num_items == 3457
    assert {path: path.stat().st_mtime_ns for path in embedded_folder.iterdir()} == before


def test_embedded_refuses_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 1 2 3\n2 2 3 1\n", encoding="utf-8")
    import_log(tmp_path / "log.txt", tmp_path / "mine", ImportOptions(min_item_count=1, min_history=3))
    with pytest.raises(CanetError, match=r"another data set \(mine\)"):
        embedded_dataset(tmp_path / "mine")


def test_embedded_refuses_other_filters(tmp_path: Path) -> None:
    folder = resources.files("canet_mobile.data.embedded")
    with resources.as_file(folder) as path:
        options = ImportOptions(items_file=path / "items.csv", min_history=20)
        import_log(path / "interactions.csv.gz", tmp_path / "set", options)
    with pytest.raises(CanetError, match="other filters"):
        embedded_dataset(tmp_path / "set")


def test_embedded_carries_its_licence() -> None:
    text = (resources.files("canet_mobile.data.embedded") / "README.txt").read_text(encoding="utf-8")
    for word in ("CC BY 4.0", "D. Chen", "10.24432/C5CG6D", "What was changed"):
        assert word in text


def run(*arguments: object):
    return CliRunner().invoke(data, [str(argument) for argument in arguments])


def test_import_prints_the_result_on_stdout_and_the_rest_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 1 2 3\n2 2 3 1\n3 1 2\n", encoding="utf-8")
    out = tmp_path / "set"
    found = run("import", tmp_path / "log.txt", "--out", out, "--min-item-count", 1, "--min-history", 3)
    assert found.exit_code == 0, found.output
    assert "interactions kept" in found.stdout and "6" in found.stdout
    assert "no time column" in found.stderr and "data describe" in found.stderr
    described = run("describe", out)
    assert described.exit_code == 0 and "last item seen before" in described.stdout


def test_json_is_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 1 2 3\n2 2 3 1\n", encoding="utf-8")
    out = tmp_path / "set"
    found = run(
        "import", tmp_path / "log.txt", "--out", out, "--min-item-count", 1, "--min-history", 3, "--json"
    )
    manifest = json.loads(found.stdout)
    validate(manifest, "dataset", where="stdout")
    assert manifest == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(run("describe", out, "--json", "--top", 1).stdout)["top_items"][0]["item_id"] == "1"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["import", "nothing.csv", "--out", "x"], "no such file"),
        (["import", "nothing.csv", "--out", "x", "--session-gap", "2h"], "--session-length"),
        (["import", "nothing.csv", "--out", "x", "--session-length", "9", "--session-gap", "2"], "duration"),
        (["describe", "nothing"], "no such dataset"),
    ],
)
def test_commands_raise_errors_with_a_way_out(arguments: list[str], word: str) -> None:
    found = run(*arguments)
    assert isinstance(found.exception, CanetError), found.output
    assert word in str(found.exception) and "fix: " in str(found.exception)


@pytest.mark.parametrize("command", [[], ["import"], ["describe"]])
def test_help_shows_examples(command: list[str]) -> None:
    found = run(*command, "--help")
    assert found.exit_code == 0
    assert "Examples:\n" in found.stdout and "canet-mobile data" in found.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'polars', 'numpy', 'torch'}"
    code = f"import sys, canet_mobile.cli.data; print(list({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
        timeout=60,
        encoding="utf-8",
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("none", None)]
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "-2h", "2 h", ""])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 30m"):
        parse_duration(text)
