"""What every source file keeps to, read from its syntax tree: a text has an encoding, a path is a name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("canet_mobile", "export", "benchmarks", "tests", "schemas")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# These take a pattern, a URL or a place in the home folder for a path: see canet_mobile/data/tables.py.
PATTERNS = {"read_parquet", "scan_parquet", "read_parquet_schema", "write_parquet"}
# Logs are read from open files, or from copies whose names are ours; tests/test_data_*.py try names.
READ_LOGS = {"refuse.py", "reading.py", "text.py", "formats.py", "tables.py"}


def calls(source: str) -> Iterator[tuple[ast.Call, str]]:
    """Every call of a source with the last part of the name it calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield node, name


def keywords(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def without_encoding(source: str) -> list[int]:
    """Lines that read or write a text in whatever encoding the locale has."""
    found = []
    for call, name in calls(source):
        given = keywords(call)
        texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
            bare = "encoding" not in given and len(call.args) < (1 if name == "read_text" else 2)
        elif name in ("open", "NamedTemporaryFile", "TemporaryFile", "fdopen"):
            builtin = isinstance(call.func, ast.Name)
            mode = given.get("mode") or next(iter(call.args[1 if builtin or name == "fdopen" else 0 :]), None)
            if isinstance(call.func, ast.Attribute) and not isinstance(mode, ast.Constant | None):
                continue  # archive.open(info): a member of a zip, in bytes
            text = mode.value if isinstance(mode, ast.Constant) else "r"
            bare = "encoding" not in given and "b" not in str(text) and name != "NamedTemporaryFile"
        elif name in ("run", "Popen", "check_output"):
            as_text = any(getattr(given.get(key), "value", False) for key in ("text", "universal_newlines"))
            bare = as_text and "encoding" not in given
        else:
            continue
        if bare and not (name == "open" and texts[:1] == ["rb"]):
            found.append(call.lineno)
    return found


def patterns(source: str) -> list[int]:
    """Lines that give Polars a path of its own reading, without ``glob=False``."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == "polars"
        for alias in node.names
    }
    return [
        call.lineno
        for call, name in calls(source)
        if name in PATTERNS
        and (isinstance(call.func, ast.Attribute) or name in imported)
        and getattr(keywords(call).get("glob"), "value", True)
    ]


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("path.open('w')", True),
        ("path.open()", True),
        ("path.open('wb')", False),
        ("path.open(encoding='utf-8')", False),
        ("archive.open(info)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
    ],
)
def test_the_reader_of_encodings_knows_a_bare_call(line: str, bare: bool) -> None:
    assert without_encoding(line) == ([1] if bare else [])


def test_the_reader_of_patterns_knows_polars() -> None:
    assert patterns("pl.read_parquet(path)") == patterns("frame.write_parquet(path)") == [1]
    assert patterns("from polars import scan_parquet\nscan_parquet(path)") == [2]
    assert patterns("pl.scan_parquet(path, glob=True)") == [1]
    assert patterns("pl.scan_parquet(path, glob=False)") == []
    assert patterns("from canet_mobile.data.tables import read_parquet\nread_parquet(path)") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_text_is_read_and_written_in_a_named_encoding(path: Path) -> None:
    assert without_encoding(path.read_text("utf-8")) == [], "add encoding='utf-8'"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if "canet_mobile" in path.parts or "canet_export" in path.parts],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_path_is_a_name_and_never_a_pattern(path: Path) -> None:
    if path.parent.name == "data" and path.name in READ_LOGS:
        return
    assert patterns(path.read_text("utf-8")) == [], "use canet_mobile/data/tables.py"
