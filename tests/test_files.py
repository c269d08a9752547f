"""Files are whole or absent; directories are staged; what was changed is refused by name."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from canet_mobile.errors import CanetError, unknown_name
from canet_mobile.files import (
    KINDS,
    MANIFEST,
    atomic_file,
    describe_files,
    kind_of,
    read_json,
    refuse_existing,
    refuse_file,
    staged_directory,
    verify_files,
    write_json,
    write_text,
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


def artefact(path: Path, kind: str, **more: str) -> Path:
    """A folder that one of our commands could have made, with a file of its own."""
    path.mkdir(parents=True)
    about = {"schema_version": 1, "kind": kind, "created_by": "canet-mobile 0.1.0", **more}
    write_json(path / MANIFEST, about)
    (path / "content").write_text(kind, encoding="utf-8")
    return path


def tree(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_a_failed_replacement_keeps_the_old_directory(tmp_path: Path) -> None:
    out = artefact(tmp_path / "out", "dataset")
    before = tree(out)
    with pytest.raises(RuntimeError), staged_directory(out, force=True, kind="dataset") as stage:
        (stage / MANIFEST).write_text("other", encoding="utf-8")
        raise RuntimeError
    assert tree(out) == before
    with staged_directory(out, force=True, kind="dataset") as stage:
        (stage / MANIFEST).write_text("new", encoding="utf-8")
    assert tree(out) == {MANIFEST: b"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_replacement_that_cannot_be_put_in_place_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = artefact(tmp_path / "out", "dataset")
    before, rename = tree(out), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if Path(target) == out and self.name != out.name:
            raise OSError(errno.EIO, "the disk says no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="says no"), staged_directory(out, force=True, kind="dataset") as stage:
        (stage / "half").touch()
    assert tree(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_appeared_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    for force in (False, True):
        with (
            pytest.raises(CanetError, match="not replaced"),
            staged_directory(tmp_path / "out", force=force, kind="run") as stage,
        ):
            (stage / MANIFEST).touch()
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    assert tree(tmp_path) == {"out/thesis.txt": b"mine"}


def test_the_folder_behind_a_replaced_link_stays(tmp_path: Path) -> None:
    artefact(tmp_path / "large-disk" / "shop", "dataset")
    (tmp_path / "shop").symlink_to(tmp_path / "large-disk" / "shop")
    with staged_directory(tmp_path / "shop", force=True, kind="dataset") as stage:
        (stage / MANIFEST).touch()
    assert not (tmp_path / "shop").is_symlink() and (tmp_path / "large-disk" / "shop" / "content").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large-disk", "shop"]


FOREIGN = {
    "browser extension": '{"manifest_version": 3, "name": "Tab tidier", "version": "1.0"}',
    "web app": '{"name": "Notes", "start_url": "/", "display": "standalone", "icons": []}',
    "web app with a kind": '{"kind": "run", "schema_version": 1, "name": "Running log"}',
    "Home Assistant": '{"domain": "lamp", "name": "Lamp", "version": "1", "requirements": []}',
    "no JSON": "manifest",
    "a list": "[]",
    "a long name of ours inside": '{"kind": "run", "schema_version": "1", "created_by": "canet-mobile 1"}',
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_force_deletes_no_folder_of_another_program(kind: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / MANIFEST).write_text(content, encoding="utf-8")
    before = tree(tmp_path)
    for force in (False, True):
        with pytest.raises(CanetError, match=r"not an artefact of canet-mobile[\s\S]*--out"):
            refuse_existing(tmp_path / "ext", force=force, kind=kind)
    assert kind_of(tmp_path / "ext") is None and tree(tmp_path) == before


@pytest.mark.parametrize("made", KINDS)
@pytest.mark.parametrize("found", KINDS)
def test_force_replaces_the_kind_that_is_made_and_no_other(made: str, found: str, tmp_path: Path) -> None:
    out = artefact(tmp_path / "out", found)
    assert kind_of(out) == found
    if made == found:
        refuse_existing(out, force=True, kind=made)
        with pytest.raises(CanetError, match="already exists"):
            refuse_existing(out, force=False, kind=made)
    else:
        with pytest.raises(CanetError, match=f"is a {found}, not a {made}"):
            refuse_existing(out, force=True, kind=made)


def test_older_artefacts_are_what_they_are(tmp_path: Path) -> None:
    write_json(tmp_path / "demo" / MANIFEST, {"schema_version": 1, "kind": "demo"})
    assert kind_of(tmp_path / "demo") == "demo"
    assert kind_of(artefact(tmp_path / "package", "package", schema_version=3)) == "package"


def test_force_deletes_only_what_we_made(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat", encoding="utf-8")
    with pytest.raises(CanetError, match="not an artefact"):
        refuse_existing(tmp_path / "photos", force=True, kind="run")
    with pytest.raises(CanetError, match="is a file"):
        refuse_existing(tmp_path / "photos" / "cat.jpg" / "out", force=True, kind="run")
    with pytest.raises(CanetError, match="not a folder"):
        refuse_existing(tmp_path / "photos" / "cat.jpg", force=True, kind="run")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", force=False, kind="run")


def test_a_report_replaces_an_older_one_and_no_other_file(tmp_path: Path) -> None:
    refuse_file(None, kind="parity")
    refuse_file(tmp_path / "new.json", kind="parity")
    for number, text in enumerate(("{}", "my notes", '{"kind": "parity"}', "\0\1", " ")):
        (tmp_path / f"{number}.json").write_text(text, encoding="utf-8")
        with pytest.raises(CanetError, match="not overwritten"):
            refuse_file(tmp_path / f"{number}.json", kind="parity")
    report = {"schema_version": 1, "kind": "parity", "created_by": "canet-mobile 0.1.0"}
    write_json(tmp_path / "parity.json", report)
    refuse_file(tmp_path / "parity.json", kind="parity")
    with pytest.raises(CanetError, match="no replay of canet-mobile"):
        refuse_file(tmp_path / "parity.json", kind="replay")
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(CanetError, match="no plain file"):
            refuse_file(path, kind="parity")


def test_a_text_is_utf8_with_its_own_line_ends_and_survives_any_name(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "Café 日本 😀\r\nb\n")
    assert (tmp_path / "a").read_bytes() == "Café 日本 😀\r\nb\n".encode()
    write_json(tmp_path / "b", {"name": "caf\udce9"})  # a file name in Latin-1, as Python reads it
    assert read_json(tmp_path / "b") == {"name": "caf?"}


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
