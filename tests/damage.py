"""Damaged packages: each has one thing wrong, is named after it, and must be refused by one code.

A table, so that every loader can be held to it. ``make`` spoils a whole package that lies in a folder and
returns what is to be opened: the folder, or a zip beside it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_toys import PROGRAM, refresh

from canet_mobile.files import read_json, write_json
from canet_mobile.package.refusal import Code

Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Damage:
    """One damaged package: what is wrong with it, the code that refuses it, and how it is made."""

    name: str
    code: Code
    make: Make


def manifest_text(change: Callable[[str], str]) -> Make:
    """The manifest's text is changed."""

    def make(package: Path) -> Path:
        path = package / "manifest.json"
        text = path.read_text(encoding="utf-8")
        changed = change(text)
        assert changed != text
        path.write_text(changed, encoding="utf-8")
        return package

    return make


def manifest_bytes(change: Callable[[bytes], bytes]) -> Make:
    """The manifest's bytes are changed."""

    def make(package: Path) -> Path:
        path = package / "manifest.json"
        path.write_bytes(change(path.read_bytes()))
        return package

    return make


def manifest_field(change: Callable[[dict[str, Any]], Any]) -> Make:
    """The manifest is changed as a document, in place."""

    def make(package: Path) -> Path:
        manifest = read_json(package / "manifest.json")
        change(manifest)
        write_json(package / "manifest.json", manifest)
        return package

    return make


def given(**changed: Any) -> Make:
    """Fields of the manifest are replaced."""
    return manifest_field(lambda manifest: manifest.update(changed))


def file(name: str, change: Callable[[bytes], bytes], *, hashed: bool = True) -> Make:
    """A file is changed; ``hashed``: the manifest agrees with it again, as somebody who hides it would."""

    def make(package: Path) -> Path:
        path = package / name
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
        if hashed:
            refresh(package)
        return package

    return make


def golden(**changed: Any) -> Make:
    """Fields of the first golden row are replaced."""
    return file("golden.jsonl", lambda data: json.dumps({**first(data), **changed}).encode() + rest(data))


def golden_text(change: Callable[[bytes], bytes]) -> Make:
    """The first line of the golden rows is changed."""
    return file("golden.jsonl", lambda data: change(data.partition(b"\n")[0]) + rest(data))


def first(data: bytes) -> dict[str, Any]:
    """The first golden row."""
    return json.loads(data.partition(b"\n")[0])


def rest(data: bytes) -> bytes:
    """What follows the first golden row, its line feed included."""
    return b"\n" + data.partition(b"\n")[2]


def zipped(change: Callable[[zipfile.ZipFile], object], *, without: tuple[str, ...] = ()) -> Make:
    """A zip of the package to which something is added."""

    def make(package: Path) -> Path:
        path = package.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            for each in sorted(package.rglob("*")):
                name = each.relative_to(package).as_posix()
                if each.is_file() and name not in without:
                    archive.write(each, name)
            change(archive)
        return path

    return make


def member(name: str, **about: Any) -> Make:
    """A zip with one more member of this name."""

    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("x")
        info.filename = name  # the constructor would tidy it
        for field, value in about.items():
            setattr(info, field, value)
        archive.writestr(info, "x")

    return zipped(add)


def zip_bytes(change: Callable[[bytes], bytes]) -> Make:
    """A zip whose bytes are changed."""

    def make(package: Path) -> Path:
        path = zipped(lambda _: None)(package)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def then(*steps: Make) -> Make:
    """Several steps; the last one says what is opened."""

    def make(package: Path) -> Path:
        return [step(package) for step in steps][-1]

    return make


def added(name: str) -> Make:
    """A file beside the others that the manifest does not list."""
    return file(name, lambda _: b"x", hashed=False)


def listed(name: str) -> Make:
    """``files`` lists one more name; no such file is needed to refuse it."""
    row = {"name": name, "bytes": 0, "sha256": "0" * 64}
    return manifest_field(lambda manifest: manifest["files"].append(row))


def nested(depth: int) -> bytes:
    """Arrays in arrays."""
    return b"[" * depth + b"]" * depth


def removed(*path: str) -> Make:
    """A field of the manifest is left out."""

    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return manifest_field(change)


def unlink(name: str) -> Make:
    """A file is gone."""

    def make(package: Path) -> Path:
        (package / name).unlink()
        return package

    return make


def retarget(target: str, name: str, data: bytes, **changed: Any) -> Make:
    """A package whose target and model file are these."""

    def make(package: Path) -> Path:
        (package / "canet.pte").unlink()
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes(data)
        refresh(package, target=target, model_file=changed.pop("model_file", name), **changed)
        return package

    return make


def route(number: int, **changed: Any) -> Make:
    """Fields of an exported route are replaced."""
    return manifest_field(lambda manifest: manifest["routes"][number].update(changed))


def larger_than_read(name: str, data: int) -> Make:
    """``files`` says that a document has more bytes than are read of its kind."""

    def change(manifest: dict[str, Any]) -> None:
        next(row for row in manifest["files"] if row["name"] == name)["bytes"] = data

    return manifest_field(change)


def _twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("items.csv", "other")


def _encrypted(data: bytes) -> bytes:
    """The flag 'encrypted' of every member, in both of its headers."""
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = data.split(mark)
        data = mark.join([parts[0], *(p[: place - 4] + b"\x01" + p[place - 3 :] for p in parts[1:])])
    return data


def _by_bzip2(package: Path) -> Path:
    path = package.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for each in sorted(package.iterdir()):
            archive.write(each, each.name)
    return path


def _nothing(package: Path) -> Path:
    return package / "nothing"


def _table() -> Iterator[tuple[Code, str, Make]]:  # noqa: PLR0915  a table, in the order of the codes
    c = Code
    yield c.PACKAGE_MISSING, "no such file or folder", _nothing

    yield c.ARCHIVE_UNREADABLE, "a text that is named .zip", then(zip_bytes(lambda _: b"hello"))
    yield c.ARCHIVE_UNREADABLE, "an empty file", zip_bytes(lambda _: b"")
    yield c.ARCHIVE_UNREADABLE, "a zip cut in half", zip_bytes(lambda data: data[: len(data) // 2])
    yield c.ARCHIVE_UNREADABLE, "a zip without its first half", zip_bytes(lambda data: data[len(data) // 2 :])
    yield c.ARCHIVE_UNREADABLE, "an encrypted zip", zip_bytes(_encrypted)
    yield c.ARCHIVE_UNREADABLE, "a zip compressed by bzip2", _by_bzip2
    damaged = zip_bytes(lambda data: data.replace(b"not a program", b"not A program"))
    yield c.ARCHIVE_UNREADABLE, "a member whose checksum is wrong", damaged
    renamed = zip_bytes(lambda data: data.replace(b"items.csv", b"items.cvs", 1))
    yield c.ARCHIVE_UNREADABLE, "a member with two names, in its header and in the table", renamed

    for what, name in (
        ("leaves its folder upward", "../evil.txt"),
        ("leaves its folder upward from within", "a/../../evil.txt"),
        ("begins at the root", "/evil.txt"),
        ("has backslashes", "..\\evil.txt"),
        ("names a drive", "C:evil.txt"),
        ("names a stream", "canet.pte:hidden"),
        ("has an empty part", "a//b.txt"),
        ("has a dot as a part", "./items.csv"),
        ("is a device of Windows", "aux.txt"),
        ("is a device of Windows in a folder", "a/COM1/b.txt"),
        ("ends in a dot", "items.csv."),
        ("ends in a blank", "items.csv "),
        ("holds a line feed", "a\nb.txt"),
        ("holds a question mark", "why?.txt"),
        ("is longer than a path may be", "a" * 300),
        ("differs from another in case only", "ITEMS.csv"),
        ("lies in a folder that is a file", "items.csv/evil.txt"),
    ):
        yield c.ARCHIVE_UNSAFE, f"a member whose name {what}", member(name)
    unicode = then(zipped(lambda z: (z.writestr("caf\u00e9.txt", "x"), z.writestr("cafe\u0301.txt", "x"))))
    yield c.ARCHIVE_UNSAFE, "two members that differ in Unicode normalisation only", unicode
    folders = then(zipped(lambda z: (z.writestr("a/one.txt", "x"), z.writestr("A/two.txt", "x"))))
    yield c.ARCHIVE_UNSAFE, "two folders that differ in case only", folders
    sharp = then(zipped(lambda z: (z.writestr("straße.txt", "x"), z.writestr("STRASSE.txt", "x"))))
    yield c.ARCHIVE_UNSAFE, "two members that differ in case only, beyond ASCII", sharp
    yield c.ARCHIVE_UNSAFE, "a member given twice", zipped(_twice)
    yield c.ARCHIVE_UNSAFE, "a symbolic link", member("passwords", external_attr=0o120777 << 16)
    yield c.ARCHIVE_UNSAFE, "a device", member("null", external_attr=0o020666 << 16)
    many = zipped(lambda z: [z.writestr(f"{number}.txt", "") for number in range(10_001)])
    yield c.ARCHIVE_UNSAFE, "more members than any package has", many

    yield c.MANIFEST_MISSING, "a folder without a manifest", unlink("manifest.json")
    no_manifest = zipped(lambda _: None, without=("manifest.json",))
    yield c.MANIFEST_MISSING, "a zip without a manifest", no_manifest
    upper = then(lambda p: (p / "manifest.json").rename(p / "MANIFEST.txt"), lambda p: p)
    yield c.MANIFEST_MISSING, "a manifest of another name", upper

    large = manifest_bytes(lambda data: b" " * 50_000_000 + data)
    yield c.DOCUMENT_TOO_LARGE, "a manifest of 50 MB", large
    yield c.DOCUMENT_TOO_LARGE, "a zipped manifest of 50 MB", then(large, zipped(lambda _: None))
    yield c.DOCUMENT_TOO_LARGE, "golden rows of 65 MiB", larger_than_read("golden.jsonl", 65 << 20)
    yield c.DOCUMENT_TOO_LARGE, "an item map of 513 MiB", larger_than_read("items.csv", 513 << 20)

    text = manifest_text
    for what, make in (
        ("that is empty", manifest_bytes(lambda _: b"")),
        ("that is cut", manifest_bytes(lambda data: data[:-20])),
        ("with something behind its end", manifest_bytes(lambda data: data + b"{}")),
        ("with a byte order mark", manifest_bytes(lambda data: b"\xef\xbb\xbf" + data)),
        ("in UTF-16", manifest_bytes(lambda data: data.decode().encode("utf-16"))),
        ("in UTF-16 without a mark", manifest_bytes(lambda data: data.decode().encode("utf-16-le"))),
        ("in Latin-1", manifest_bytes(lambda data: data.replace(b'"toy"', b'"caf\xe9"'))),
        ("with an overlong byte of UTF-8", manifest_bytes(lambda data: data.replace(b"toy", b"t\xc0\xaf"))),
        ("with a comment", text(lambda t: t.replace("{", "{ // mine\n", 1))),
        ("with a comma too many", text(lambda t: t.rstrip().removesuffix("}") + ",}")),
        ("in single quotes", text(lambda t: t.replace('"toy"', "'toy'"))),
        ("with a key given twice", text(lambda t: t.replace('"k": 20', '"k": 20, "k": 10'))),
        (
            "with a key given twice, one escaped",
            text(lambda t: t.replace('"k": 20', '"k": 20, "\\u006b": 1')),
        ),
        (
            "with a key given twice, deep inside",
            text(lambda t: t.replace('"id": 0,', '"id": 0, "id": 0,', 1)),
        ),
        ("nested 200,000 deep", manifest_bytes(lambda _: nested(200_000))),
        ("nested 65 deep", manifest_bytes(lambda _: nested(65))),
        ("with NaN", text(lambda t: t.replace('"k": 20', '"k": NaN'))),
        ("with an infinity", text(lambda t: t.replace('"paper_mflops": 1.0', '"paper_mflops": Infinity'))),
        ("with 1e999", text(lambda t: t.replace('"paper_mflops": 1.0', '"paper_mflops": 1e999'))),
        ("with 10 to the 400th", text(lambda t: t.replace('"k": 20', f'"k": 1{"0" * 400}'))),
        ("with 10 to the 5000th", text(lambda t: t.replace('"k": 20', f'"k": 1{"0" * 5000}'))),
        ("with 2 to the 63rd", text(lambda t: t.replace('"k": 20', f'"k": {2**63}'))),
        ("with half of a surrogate pair", text(lambda t: t.replace('"toy"', '"\\ud800"'))),
        ("with half of a surrogate pair in a key", text(lambda t: t.replace('"ios"', '"\\udc00"'))),
        ("with a control character in a string", text(lambda t: t.replace('"toy"', '"to\ty"'))),
        ("with a leading zero", text(lambda t: t.replace('"k": 20', '"k": 020'))),
    ):
        yield c.MANIFEST_UNREADABLE, f"a manifest {what}", make

    yield c.NOT_A_PACKAGE, "the manifest of a run", given(kind="run")
    yield c.NOT_A_PACKAGE, "a manifest without a kind", removed("kind")
    yield c.NOT_A_PACKAGE, "a manifest that is a list", manifest_bytes(lambda data: b"[" + data + b"]")
    yield c.NOT_A_PACKAGE, "a manifest that is null", manifest_bytes(lambda _: b"null")
    yield c.SCHEMA_OLDER, "a package of the schema before", given(schema_version=4)
    yield c.SCHEMA_OLDER, "a package of no schema yet", given(schema_version=0)
    yield c.SCHEMA_NEWER, "a package of the next schema", given(schema_version=6)

    for what, make in (
        ("a schema version that is a text", given(schema_version="5")),
        ("a schema version that is true", given(schema_version=True)),
        ("a schema version of 5.0", given(schema_version=5.0)),
        ("no schema version", removed("schema_version")),
        ("no list of files", removed("files")),
        ("an unknown field", given(extra=1)),
        ("an unknown target", given(target="ncnn")),
        ("an unknown quantization", given(quantization="int7")),
        ("a number of items that is 60.0", text(lambda t: t.replace('"items": 60', '"items": 60.0'))),
        ("a number of items that is 6e1", text(lambda t: t.replace('"items": 60', '"items": 6e1'))),
        ("a number of items that is a text", given(items="60")),
        ("a number of items that is true", given(items=True)),
        ("no items", given(items=0)),
        ("more items than an id can name", given(items=2**31 - 1)),
        ("a length of null", given(length=None)),
        ("a model file outside", given(model_file="../canet.pte")),
        ("a model file that ends in a line feed", given(model_file="canet.pte\n")),
        ("a hidden model file", given(model_file=".canet.pte")),
        ("a hash in capitals", given(item_map_sha256="A" * 64)),
        ("a hash that ends in a line feed", given(item_map_sha256="0" * 64 + "\n")),
        ("a listed file of negative size", larger_than_read("items.csv", -1)),
        ("a space of a hundred thousand sizes", manifest_field(
            lambda m: m["space"].update(embedding=list(range(8, 100_008)))
        )),
        ("a router of another name", manifest_field(lambda m: m["router"].update(entry="main"))),
    ):  # fmt: skip
        yield c.MANIFEST_INVALID, what, make

    for what, name in (
        ("a file twice", "items.csv"),
        ("two names that differ in case only", "Items.csv"),
        ("the manifest itself", "manifest.json"),
        ("a folder that is a file", "items.csv/more.txt"),
        ("a device of Windows", "con.txt"),
        ("a name that ends in a dot", "notes."),
        ("a name that is too long", "a" * 300),
    ):
        yield c.NAMES_UNSAFE, f"a list with {what}", listed(name)
    yield c.NAMES_UNSAFE, "a folder with two names that differ in case only", added("ITEMS.CSV")
    yield c.NAMES_UNSAFE, "a folder with a name that Windows keeps", added("nul.txt")

    for name in ("canet.pte", "items.csv", "golden.jsonl"):
        lost = manifest_field(lambda m, n=name: m.update(files=[f for f in m["files"] if f["name"] != n]))  # type: ignore[misc]
        spare = then(file("notes.txt", lambda _: b"x"), lost)  # files lists three names at least
        yield c.FILE_UNLISTED, f"a list without {name}", spare
        yield c.FILE_MISSING, f"{name} is gone", unlink(name)
        yield c.FILE_MISSING, f"{name} is not in the zip", zipped(lambda _: None, without=(name,))
        yield c.SIZE_MISMATCH, f"{name} is cut", file(name, lambda data: data[:-1], hashed=False)
        yield c.SIZE_MISMATCH, f"{name} is empty", file(name, lambda _: b"", hashed=False)
        flipped = file(name, lambda data: bytes([data[0] ^ 1]) + data[1:], hashed=False)
        yield c.HASH_MISMATCH, f"{name} has a flipped bit", flipped
        yield c.HASH_MISMATCH, f"{name} has a flipped bit in the zip", then(flipped, zipped(lambda _: None))
    as_folder = then(unlink("canet.pte"), lambda p: ((p / "canet.pte").mkdir(), p)[1])
    yield c.FILE_MISSING, "a model file that is a folder", as_folder
    part = given(parts=[{"name": "layers.data", "entries": ["e8_h8_d1"]}])
    yield c.FILE_UNLISTED, "a part that is not listed", then(added("layers.data"), part)
    bomb = then(file("canet.pte", lambda _: bytes(100_000_000)), _deflated)
    yield c.ARCHIVE_TOO_LARGE, "a zip that unpacks to a hundred times its size", bomb

    for name in ("other.tflite", "OTHER.ONNX", "more/model.safetensors", "deep.mlpackage/weights"):
        yield c.UNLISTED_MODEL, f"{name} that is not listed", then(_folder(name), added(name))

    flatbuffer = b"\0\0\0\0TFL3" + bytes(20)
    for what, make in (
        ("the target tflite for a .pte", given(target="tflite")),
        ("the target onnx for a .pte", given(target="onnx")),
        ("the target coreml for a .pte", given(target="coreml")),
        ("a .pte that is a .tflite inside", file("canet.pte", lambda _: flatbuffer)),
        ("a .pte that is empty inside", file("canet.pte", lambda _: b"")),
        ("a .pte shorter than its mark", file("canet.pte", lambda _: PROGRAM[:6])),
        ("a .tflite that is a .pte inside", retarget("tflite", "canet.tflite", PROGRAM)),
        ("a .onnx that is a .pte inside", retarget("onnx", "canet.onnx", PROGRAM)),
        ("an .ort that is a .tflite inside", retarget("onnx", "canet.ort", flatbuffer)),
        ("a .mlpackage that is a file", retarget("coreml", "canet.mlpackage", PROGRAM)),
        (
            "a .mlpackage without its table",
            retarget("coreml", "canet.mlpackage/model", PROGRAM, model_file="canet.mlpackage"),
        ),
        ("a listed .ort that is none, beside the model", file("spare.ort", lambda _: PROGRAM)),
    ):
        yield c.RUNTIME_MISMATCH, what, make

    yield c.ROUTES_DISAGREE, "an entry of other sizes", route(0, entry="e8_h8_d2")
    yield c.ROUTES_DISAGREE, "an id of other sizes", route(0, id=1)
    yield c.ROUTES_DISAGREE, "an id beyond the space", route(0, id=99)
    yield c.ROUTES_DISAGREE, "routes that do not ascend", manifest_field(lambda m: m["routes"].reverse())
    yield c.ROUTES_DISAGREE, "a route twice", manifest_field(lambda m: m["routes"].append(m["routes"][-1]))
    space = manifest_field(lambda m: m["space"].update(hidden=[8, 10]))
    yield c.ROUTES_DISAGREE, "a width that is no multiple of the heads", space
    descending = manifest_field(lambda m: m["space"].update(depth=[2, 1]))
    yield c.ROUTES_DISAGREE, "a space that does not ascend", descending

    for what, make in (
        ("an input of another length", manifest_field(lambda m: m["input"].update(shape=[1, 9]))),
        ("lists of another length", given(k=19)),
        ("ids of another type than the target's", manifest_field(
            lambda m: m["outputs"]["route"]["ids"].update(dtype="int32")
        )),
        ("scores that are integers", manifest_field(
            lambda m: m["outputs"]["route"]["scores"].update(dtype="int64")
        )),
        ("a way of calling that the target has not", given(interface={"style": "one_graph"})),
        ("a part of an entry that is not exported", then(
            file("more.data", lambda _: b"x"), given(parts=[{"name": "more.data", "entries": ["e9_h9_d9"]}])
        )),
    ):  # fmt: skip
        yield c.INTERFACE_DISAGREES, what, make
    longer = manifest_field(
        lambda m: (m.update(k=61), [t.update(shape=[1, 61]) for t in m["outputs"]["route"].values()])
    )
    yield c.INTERFACE_DISAGREES, "lists longer than there are items", longer
    for lengths in ([8, 4], [4], [4, 8], [4, 9]):
        yield c.INTERFACE_DISAGREES, f"lengths {lengths} of entries at 8", given(lengths=lengths)

    points = manifest_field
    yield c.POINTS_DISAGREE, "one operating point too few", points(lambda m: m["operating_points"].pop())
    yield (
        c.POINTS_DISAGREE,
        "operating points in another order",
        points(lambda m: m["operating_points"].reverse()),
    )
    yield c.POINTS_DISAGREE, "no default point", given(default_point=None)
    yield (
        c.POINTS_DISAGREE,
        "points where nothing is routed",
        points(lambda m: m["router"].update(table=None)),
    )
    yield (
        c.POINTS_DISAGREE,
        "users sent to a route that is not exported",
        points(lambda m: m["operating_points"][0].update(shares={"e9_h9_d9": 1.0})),
    )

    items = file
    yield c.ITEMS_DISAGREE, "the item map of another package", given(item_map_sha256="0" * 64)
    for what, change in (
        ("in Latin-1", lambda data: data.replace(b"item-7,", b"caf\xe9,")),
        ("in UTF-16", lambda data: data.decode().encode("utf-16")),
        ("with a byte order mark", lambda data: b"\xef\xbb\xbf" + data),
        ("with an overlong byte of UTF-8", lambda data: data.replace(b"item-7,", b"\xc0\xaf,")),
        ("with half of a surrogate pair", lambda data: data.replace(b"item-7,", b"\xed\xa0\x80,")),
        ("with other columns", lambda data: data.replace(b"index", b"id", 1)),
        ("without its columns", lambda data: data.partition(b"\n")[2]),
        ("that is empty", lambda _: b""),
        ("of one row less", lambda data: data.rpartition(b"60,")[0]),
        ("of one row more", lambda data: data + b"61,item-61,\n"),
        ("with a row twice", lambda data: data.replace(b"8,item-8", b"7,item-8")),
        ("with an index of 08", lambda data: data.replace(b"\n8,", b"\n08,")),
        ("with a field too many", lambda data: data.replace(b"8,item-8,", b"8,item-8,,")),
        ("with an empty line", lambda data: data.replace(b"\n8,", b"\n\n8,")),
        ("with an open quote", lambda data: data + b'61,"item'),
        ("with a quote inside a field", lambda data: data.replace(b"8,item-8,", b'8,"item"-8,')),
        ("with a field of 200,000 letters", lambda data: data.replace(b"item-7,", b"x" * 200_000 + b",")),
        ("with an item_id twice", lambda data: data.replace(b"8,item-8,", b"8,item-7,")),
    ):
        yield c.ITEMS_DISAGREE, f"an item map {what}", items("items.csv", change)

    for what, make in (
        ("with a key given twice", golden_text(lambda line: line.replace(b"{", b'{"entry": "x", ', 1))),
        ("in Latin-1", golden_text(lambda line: line.replace(b"pytorch", b"pyt\xf6rch"))),
        ("in UTF-16", file("golden.jsonl", lambda data: data.decode().encode("utf-16"))),
        ("with a byte order mark", file("golden.jsonl", lambda data: b"\xef\xbb\xbf" + data)),
        ("nested 200,000 deep", golden_text(lambda _: nested(200_000))),
        ("with NaN for a score", golden_text(lambda line: line.replace(b'"scores": [', b'"scores": [NaN, '))),
        ("with 1e999 for a score", golden_text(lambda l_: l_.replace(b'"scores": [', b'"scores": [1e999, '))),
        ("with 10 to the 400th for an id", golden_text(
            lambda line: line.replace(b'"ids": [', b'"ids": [1' + b"0" * 400 + b", ")
        )),
        ("with half of a surrogate pair", golden(reference="\ud800")),
        ("that are no JSON", golden_text(lambda _: b"{")),
        ("with an empty line", golden_text(lambda line: line + b"\n")),
        ("that are empty", file("golden.jsonl", lambda _: b"")),
        ("of which one is a list", golden_text(lambda _: b"[]")),
        ("with an unknown field", golden(extra=1)),
        ("with an id of 1.0", golden_text(lambda line: line.replace(b'"ids": [', b'"ids": [1.0, '))),
        ("with an input of another length", golden(input=[0, 1])),
        ("with an input that is all padding", golden(input=[0] * 8)),
        ("with padding behind an item", golden(input=[1] + [0] * 6 + [2])),
        ("with an item beyond the last", golden(input=[0] * 7 + [61])),
        ("with an item of 2 to the 31st", golden(input=[0] * 7 + [2**31])),
        ("with a negative item", golden(input=[0] * 7 + [-1])),
        ("with a route that is not exported", golden(routes=[0, 8, 1])),
        ("with a route for two of three points", golden(routes=[0, 1])),
        ("of an entry that is not exported", golden(entry="e9_h9_d9")),
        ("with an answer twice", golden(ids=[1] * 20)),
        ("with padding for an answer", golden(ids=list(range(20)))),
        ("with too few answers", golden(ids=[1, 2])),
        ("with scores that ascend", golden(scores=[float(n) for n in range(20)])),
        ("of an unknown reference", golden(reference="guess")),
        ("of which one is missing", file("golden.jsonl", lambda data: data[: data[:-1].rfind(b"\n") + 1])),
    ):  # fmt: skip
        yield c.GOLDEN_INVALID, f"golden rows {what}", make


def _deflated(package: Path) -> Path:
    path = package.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(package.iterdir()):
            archive.write(each, each.name)
    return path


def _folder(name: str) -> Make:
    def make(package: Path) -> Path:
        (package / name).parent.mkdir(exist_ok=True)
        return package

    return make


DAMAGES = tuple(Damage(name, code, make) for code, name, make in _table())
