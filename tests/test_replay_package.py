"""A package is verified before first use; whatever is wrong with it is refused by name."""

from __future__ import annotations

import gc
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_toys import ITEMS, PROGRAM, K, refresh, toy_canet, write_package

from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import read_json, write_json
from canet_mobile.model.points import POINTS
from canet_mobile.package import archive
from canet_mobile.package.manifest import MAX_BYTES
from canet_mobile.package.package import open_package
from canet_mobile.schema import load_schema


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test opens or fails to open, no extracted package outlives it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package", toy_canet())


def zipped(directory: Path, out: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(directory.iterdir()):
            file.write(path, prefix + path.name)
    return out


def refused(path: Path) -> str:
    with pytest.raises(CanetError) as error:
        open_package(path)
    return str(error.value)


def test_what_an_opened_package_says(package: Path) -> None:
    opened = open_package(package)
    assert (opened.items, opened.length, opened.k, opened.quantization) == (ITEMS, 8, K, "fp32")
    assert [route.id for route in opened.routes] == list(range(8))
    assert opened.route(5).entry == opened.routes[5].entry == "e16_h8_d2"
    assert len(opened.golden) == 16
    assert opened.golden[0].line == 1
    assert (opened.golden[0].input > 0).sum() == 1
    assert opened.warnings == ()


def test_the_schemas_name_the_operating_points() -> None:
    row = load_schema("manifest")["properties"]["operating_points"]["items"]
    assert row["properties"]["name"]["enum"] == list(POINTS)
    assert load_schema("replay")["properties"]["point"]["enum"] == [*POINTS, None]


def test_an_operating_point_is_found_by_name_where_something_is_routed(package: Path) -> None:
    opened = open_package(package)
    assert [opened.point(name) for name in ("saver", "balanced", "best")] == [0, 1, 2]
    with pytest.raises(UsageError, match="unknown operating point 'balance'") as error:
        opened.point("balance")
    assert "did you mean 'balanced'?" in str(error.value)
    router = {**asdict(opened.manifest.router), "table": None}
    edit(package, router=router, operating_points=[], default_point=None)
    plain = open_package(package)
    assert plain.point("balanced") == 1
    with pytest.raises(UsageError, match="'saver' chooses nothing: the package has no router"):
        plain.point("saver")


@pytest.mark.parametrize("prefix", ["", "package/"])
def test_a_zip_is_the_same_package_and_cleans_up(package: Path, tmp_path: Path, prefix: str) -> None:
    opened = open_package(zipped(package, tmp_path / "p.zip", prefix))
    plain = open_package(package)
    assert (opened.manifest, opened.sha256) == (plain.manifest, plain.sha256)
    directory = opened.directory
    assert opened.model_path.read_bytes() == PROGRAM
    del opened
    assert not directory.exists()


@pytest.mark.parametrize("name", ["canet.pte", "items.csv", "golden.jsonl"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_changed_truncated_or_missing_file_is_named(
    package: Path, tmp_path: Path, name: str, as_zip: bool
) -> None:
    path = package / name
    whole = path.read_bytes()
    damages: dict[str, tuple[Callable[[], Any], str]] = {
        "flip": (lambda: path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:]), "SHA-256"),
        "cut": (lambda: path.write_bytes(whole[:-1]), "truncated"),
        "gone": (path.unlink, "missing"),
    }
    for number, (damage, said) in enumerate(damages.values()):
        damage()
        text = refused(zipped(package, tmp_path / f"{number}.zip") if as_zip else package)
        assert name in text
        assert said in text


def edit(package: Path, **changed: Any) -> None:
    write_json(package / "manifest.json", {**read_json(package / "manifest.json"), **changed})


def test_a_manifest_that_contradicts_itself_is_refused(package: Path) -> None:
    manifest = read_json(package / "manifest.json")
    routes = manifest["routes"]
    renamed = [{**routes[0], "entry": "e8_h8_d2"}, *routes[1:]]
    shifted = [{**routes[0], "id": 1}, *routes[1:]]
    outside = [{**routes[0], "id": 99}, *routes[1:]]
    shape = {**manifest["input"], "shape": [1, 9]}
    points = manifest["operating_points"]
    astray = {**points[0], "shares": {"e9_h9_d9": 1.0}}
    for changed, said in (
        ({"schema_version": 1}, "schema_version is 1"),
        ({"kind": "run"}, "manifest of a 'run'"),
        ({"quantization": "int7"}, "int7"),
        ({"routes": renamed}, "its sizes say 'e8_h8_d1'"),
        ({"routes": shifted}, "the routing space says e8_h8_d2"),
        ({"routes": outside}, "ids 0..7"),
        ({"routes": [routes[1], routes[0]]}, "ascending"),
        ({"space": {**manifest["space"], "hidden": [8, 10]}}, "multiple of 4"),
        ({"input": shape}, "input.shape is [1, 9]"),
        ({"lengths": [8, 4]}, "lengths [8, 4] do not ascend to length 8"),
        ({"lengths": [4]}, "lengths [4] do not ascend to length 8"),
        ({"lengths": [4, 8]}, "router.shorter tells of lengths [], expected [4]"),
        ({"operating_points": points[:2]}, "operating_points are [(0, 'saver'), (1, 'balanced')]"),
        ({"operating_points": [points[1], points[0], points[2]]}, "operating_points are [(1, 'balanced')"),
        ({"operating_points": [astray, *points[1:]]}, "saver sends users to 'e9_h9_d9'"),
        ({"default_point": None}, "default_point is None, expected 'balanced'"),
        ({"router": {**manifest["router"], "table": None}}, "expected []"),
        ({"items": 59}, "holds 60 items"),
        ({"k": 19}, "outputs.route.scores"),
        ({"item_map_sha256": "0" * 64}, "item_map_sha256"),
        ({"files": [f for f in manifest["files"] if f["name"] != "golden.jsonl"] * 2}, "is given twice"),
        ({"model_file": "../canet.pte"}, "model_file"),
    ):
        edit(package, **changed)
        assert said in refused(package), changed
        write_json(package / "manifest.json", manifest)
    assert open_package(package)


def test_the_model_file_must_be_listed(package: Path) -> None:
    (package / "other.txt").write_text("x", encoding="utf-8")
    refresh(package)
    listed = read_json(package / "manifest.json")["files"]
    edit(package, files=[f for f in listed if f["name"] != "canet.pte"])
    assert "does not list 'canet.pte'" in refused(package)


def test_unlisted_files_are_reported_and_unlisted_models_refused(package: Path, tmp_path: Path) -> None:
    (package / "notes.txt").write_text("mine", encoding="utf-8")
    for path in (package, zipped(package, tmp_path / "p.zip")):
        assert "'notes.txt' is not listed" in open_package(path).warnings[0]
    (package / "other.tflite").write_bytes(b"x")
    for path in (package, zipped(package, tmp_path / "q.zip")):
        assert "model-like file 'other.tflite'" in refused(path)


def test_bad_golden_rows_are_refused_by_line(package: Path) -> None:
    path = package / "golden.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()

    def spoiled(**changed: Any) -> str:
        path.write_text(
            "\n".join([json.dumps({**json.loads(lines[0]), **changed}), *lines[1:]]) + "\n", encoding="utf-8"
        )
        refresh(package)
        return refused(package)

    first = json.loads(lines[0])
    for changed, said in (
        ({"input": first["input"][1:]}, "input has 7 ids"),
        ({"input": [0] * 8}, "all padding"),
        ({"input": [1] + [0] * 6 + [2]}, "not left-padded"),
        ({"input": [0] * 7 + [61]}, "id 61"),
        ({"routes": [0, 8, 1]}, "routes holds [8]"),
        ({"routes": [0, 1]}, "routes holds 2 ids, there are 3 operating points"),
        ({"entry": "e9_h9_d9"}, "not exported"),
        ({"ids": first["ids"][1:]}, "19 ids"),
        ({"ids": [*first["ids"][1:], 61]}, "ids hold 61"),
        ({"ids": [0, *first["ids"][1:]]}, "minimum"),
        ({"scores": first["scores"][::-1]}, "descend"),
        ({"reference": "guess"}, "guess"),
    ):
        text = spoiled(**changed)
        assert said in text
        assert "line 1" in text
    path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    refresh(package)
    assert "1 rows for e16_h16_d2" in refused(package)
    path.write_text("\n".join([lines[1], lines[1], *(line for line in lines[2:])]) + "\n", encoding="utf-8")
    refresh(package)
    assert open_package(package)
    path.write_text("\n".join(line for n, line in enumerate(lines * 2) if n % 2) + "\n", encoding="utf-8")
    refresh(package)
    assert "history of one item" in refused(package)


def test_no_package_at_all(package: Path, tmp_path: Path) -> None:
    assert "no such package" in refused(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no manifest.json" in refused(tmp_path / "empty")
    text = tmp_path / "text.zip"
    text.write_text("hello", encoding="utf-8")
    assert "neither a directory nor a whole zip" in refused(text)
    whole = zipped(package, tmp_path / "p.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "cut.zip" in refused(tmp_path / "cut.zip")
    (package / "manifest.json").write_text("{", encoding="utf-8")
    assert "not valid JSON" in refused(package)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"]
)
def test_a_zip_that_leaves_its_folder_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    path = zipped(package, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(name), "evil")
    assert "leaves the package" in refused(path)
    assert not list(tmp_path.parent.rglob("evil.txt"))


def test_a_zip_with_a_link_a_repeat_or_a_false_size_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = zipped(package, tmp_path / "link.zip")
    with zipfile.ZipFile(link, "a") as file:
        info = zipfile.ZipInfo("passwords")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    assert "device 'passwords'" in refused(link)
    twice = zipped(package, tmp_path / "twice.zip")
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("items.csv", "other")
    assert "'items.csv' is given twice" in refused(twice)
    (package / "canet.pte").write_bytes(b"\0" * 10_000_000)
    assert "10000000 bytes, the manifest says 22" in refused(zipped(package, tmp_path / "bomb.zip"))
    monkeypatch.setitem(MAX_BYTES, "manifest.json", 10)
    assert "at most 10 are read" in refused(zipped(package, tmp_path / "large.zip"))


def test_a_damaged_zip_member_is_named(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "stored.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for part in sorted(package.iterdir()):
            file.write(part, part.name)
    path.write_bytes(path.read_bytes().replace(b"not a program", b"not A program"))
    text = refused(path)
    assert "canet.pte" in text
    assert "damaged" in text


def stuffed(package: Path, size: int) -> Path:
    """A package whose model file holds nothing but zeros, and says so."""
    (package / "canet.pte").write_bytes(bytes(size))
    refresh(package)
    return package


def test_a_zip_bomb_writes_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(stuffed(package, 100_000_000), tmp_path / "bomb.zip")
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(archive, "_write", lambda *_: pytest.fail("something was written"))
    text = refused(path)
    assert "bomb.zip: would unpack to 100," in text and "nothing was written" in text


def test_no_zip_is_larger_than_any_package(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(package, tmp_path / "p.zip")
    assert open_package(path)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    assert "more than the 1,000 that a package may have" in refused(path)


def test_a_zip_that_is_deflated_as_zips_are_opens(package: Path, tmp_path: Path) -> None:
    """Half of the model's bytes are zero: a deflated zip of a fifth of the size or more is nobody's bomb."""
    rows = np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8)
    rows[::2] = 0
    (package / "canet.pte").write_bytes(PROGRAM + rows.tobytes())
    refresh(package)
    assert open_package(zipped(package, tmp_path / "p.zip")).model_path.stat().st_size > 2_000_000


COMPANIONS = (
    "__MACOSX/._canet.pte",
    "__MACOSX/._manifest.json",
    "._canet.pte",
    ".DS_Store",
    "._.DS_Store",
    "Icon\r",
)


@pytest.mark.parametrize("prefix", ["", "package/"])
def test_what_macos_adds_to_a_zip_is_ignored_with_a_note(package: Path, tmp_path: Path, prefix: str) -> None:
    path = zipped(package, tmp_path / "p.zip", prefix)
    with zipfile.ZipFile(path, "a") as file:
        for name in COMPANIONS:
            file.writestr(name if name.startswith("__") else prefix + name, b"Mac OS X")
    opened = open_package(path)
    assert len(opened.warnings) == 1 and "6 file(s) that macOS put there" in opened.warnings[0]
    assert not list(opened.directory.rglob("._*"))


def test_what_macos_adds_to_a_folder_is_ignored_with_a_note(package: Path) -> None:
    for name in COMPANIONS:
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes(b"Mac OS X")
    assert ["macOS put there" in text for text in open_package(package).warnings] == [True]


def test_companions_of_macos_do_not_hide_what_leaves_the_package(package: Path, tmp_path: Path) -> None:
    path = zipped(package, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__MACOSX/../../evil.txt", "evil")
    assert "leaves the package" in refused(path)


def test_parts_and_files_of_entries_must_be_listed(package: Path) -> None:
    manifest = read_json(package / "manifest.json")
    entry = manifest["routes"][0]["entry"]
    (package / "layers.data").write_bytes(b"unverified")
    for changed in (
        {"parts": [{"name": "layers.data", "entries": [entry]}]},
        {"interface": {"style": "files", "files": {entry: "layers.data"}}},
    ):
        edit(package, **changed)
        assert "files does not list 'layers.data', so it cannot be verified" in refused(package)
        write_json(package / "manifest.json", manifest)
    refresh(package, parts=[{"name": "layers.data", "entries": [entry]}])
    assert open_package(package).warnings == ()


def test_an_error_of_the_schema_does_not_print_the_whole_document(package: Path) -> None:
    edit(package, routes={str(number): "x" * 100 for number in range(1000)})
    assert len(refused(package)) < 1500
