"""Files are whole or absent; directories are staged; what was changed is refused by name."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from canet_mobile.errors import CanetError, unknown_name
from canet_mobile.files import (
    MANIFEST,
    atomic_file,
    describe_files,
    read_json,
    refuse_existing,
    staged_directory,
    verify_files,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_directory_leaves_nothing_not_even_the_folders_above_it(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        staged_directory(tmp_path / "x" / "y", force=False, kind="dataset") as stage,
    ):
        (stage / "file").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_directory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_directory(out, force=False, kind="dataset") as stage:
        (stage / MANIFEST).write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError), staged_directory(out, force=True, kind="dataset") as stage:
        (stage / MANIFEST).write_text("other", encoding="utf-8")
        raise RuntimeError
    assert (out / MANIFEST).read_text(encoding="utf-8") == "{}"
    with staged_directory(out, force=True, kind="dataset") as stage:
        (stage / MANIFEST).write_text("new", encoding="utf-8")
    assert (out / MANIFEST).read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_force_deletes_only_what_we_made(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat", encoding="utf-8")
    with pytest.raises(CanetError, match="not an artefact"):
        refuse_existing(tmp_path / "photos", force=True)
    with pytest.raises(CanetError, match="is a file"):
        refuse_existing(tmp_path / "photos" / "cat.jpg" / "out", force=True)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", force=False)


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot write here")]
)
def test_disk_errors_name_the_target(number: int, message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(CanetError, match=message) as caught,
        staged_directory(tmp_path / "out", force=False, kind="dataset"),
    ):
        raise OSError(number, "system words")
    assert str(tmp_path / "out") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped"])
def test_changed_files_are_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(100)))
    entries = describe_files(tmp_path, ["weights.bin"])
    verify_files(tmp_path, entries)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes(range(99)) if damage == "shorter" else bytes([1, *range(1, 100)]))
    with pytest.raises(CanetError, match=r"weights\.bin"):
        verify_files(tmp_path, entries)


def test_broken_json_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a": 1,\n "b" 2}', encoding="utf-8")
    with pytest.raises(CanetError, match=r"m\.json[\s\S]*line 2 column"):
        read_json(tmp_path / "m.json")


def test_unknown_names_suggest_the_nearest_and_list_the_rest() -> None:
    error = unknown_name("target", "executorh", ["executorch", "coreml"])
    assert "did you mean 'executorch'" in str(error) and "coreml" in str(error)
    assert "did you mean" not in str(unknown_name("target", "zzz", ["executorch"]))
