"""Whatever is wrong with a package has one code, in the loader, in --json and in the documentation."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from damage import DAMAGES, Damage
from replay_toys import LENGTH, PROGRAM, refresh, toy_canet, write_package

from canet_mobile.cli.main import run
from canet_mobile.errors import CanetError
from canet_mobile.package.package import Package, open_package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import Answer, Device, open_device, recommend, run_router
from canet_mobile.schema import load_schema
from canet_mobile.strict_json import parse_json

ROOT = Path(__file__).parent.parent
LOADER_DOCS = ROOT / "docs" / "package.md"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("whole") / "package", toy_canet())


@pytest.fixture
def package(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "package"))


def refused(call: Any, *arguments: Any) -> Refused:
    with pytest.raises(Refused) as error:
        call(*arguments)
    return error.value


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_one_damage_one_code(damage: Damage, package: Path) -> None:
    found = refused(open_package, damage.make(package))
    assert (found.code, bool(found.what), found.where is not None) == (damage.code, True, True)
    assert found.fix, found


@pytest.mark.parametrize("name", ["items.csv", "golden.jsonl", "canet.pte"])
def test_what_is_wrong_in_a_zip_is_named_in_the_zip_and_not_where_it_was_extracted(
    package: Path, name: str
) -> None:
    (package / name).write_bytes(b"spoiled")
    refresh(package)
    path = package.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for each in sorted(package.iterdir()):
            archive.write(each, each.name)
    assert refused(open_package, path).where == path / name


def test_each_damage_has_a_name_of_its_own() -> None:
    names = [damage.name for damage in DAMAGES]
    assert sorted(set(names)) == sorted(names)


def test_a_package_of_an_older_schema_says_what_to_do(package: Path) -> None:
    refresh(package, schema_version=4)
    assert refused(open_package, package).fix == "export it again with this version"
    refresh(package, schema_version=6)
    assert refused(open_package, package).fix == "open it with a newer canet-mobile"


# What is refused after a package was opened: by the device, before its runtime sees it.
CALLS: tuple[tuple[Code, str, dict[str, Any]], ...] = (
    (Code.ENTRY_UNKNOWN, "an entry that is not exported", dict(entry="e9_h9_d9")),
    (Code.POINT_UNKNOWN, "the point -1", dict(point=-1)),
    (Code.POINT_UNKNOWN, "the point 3", dict(point=3)),
    (Code.POINT_UNKNOWN, "the point 2^31-1", dict(point=2**31 - 1)),
    (Code.HISTORY_INVALID, "one item too many", dict(seq=np.ones(LENGTH + 1, np.int32))),
    (Code.HISTORY_INVALID, "one item too few", dict(seq=np.ones(LENGTH - 1, np.int32))),
    (Code.HISTORY_INVALID, "two histories", dict(seq=np.ones((2, LENGTH), np.int32))),
    (Code.HISTORY_INVALID, "floats", dict(seq=np.ones(LENGTH, np.float32))),
    (Code.HISTORY_INVALID, "nothing but padding", dict(seq=np.zeros(LENGTH, np.int32))),
    (Code.HISTORY_INVALID, "padding on the right", dict(seq=np.eye(1, LENGTH, dtype=np.int32)[0])),
    (Code.ITEM_UNKNOWN, "the item -1", dict(seq=np.full(LENGTH, -1, np.int32))),
    (Code.ITEM_UNKNOWN, "the item V+1", dict(seq=np.full(LENGTH, 61, np.int32))),
    (Code.ITEM_UNKNOWN, "the item 2^31-1", dict(seq=np.full(LENGTH, 2**31 - 1, np.int32))),
    (Code.ITEM_UNKNOWN, "the item 2^32+1, which int32 takes for 1", dict(seq=np.full(LENGTH, 2**32 + 1))),
)
SOUND = dict(entry="router", seq=np.ones(LENGTH, np.int32), point=1)
RUNTIME = "canet_mobile.replay.runtimes.executorch"


def answering(monkeypatch: pytest.MonkeyPatch, *outputs: Any) -> list[str]:
    """Put a runtime in the place of ExecuTorch that answers this; returns the entries it was asked for."""
    asked: list[str] = []

    def call(entry: str, seq: Any, point: int) -> Answer:
        asked.append(entry)
        return Answer(outputs, 1)

    device = Device("host", "none", 1, 0.0, lambda entry: asked.append(entry) or 0.0, call)  # type: ignore[func-returns-value]
    monkeypatch.setitem(sys.modules, RUNTIME, SimpleNamespace(open_device=lambda package, threads: device))
    return asked


@pytest.mark.parametrize(("code", "what", "changed"), CALLS, ids=[what for _, what, _ in CALLS])
def test_a_call_is_refused_before_the_runtime_sees_it(
    whole: Path, monkeypatch: pytest.MonkeyPatch, code: Code, what: str, changed: dict[str, Any]
) -> None:
    asked = answering(monkeypatch, np.zeros(1, np.int64))
    device = open_device(open_package(whole))
    device.call(*SOUND.values())
    assert asked == ["router"]
    assert refused(device.call, *{**SOUND, **changed}.values()).code == code
    assert asked == ["router"], "the runtime was asked all the same"


def test_a_length_that_is_not_held_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, np.zeros(1, np.int64))
    exact = open_device(open_package(whole)).exact
    assert exact is not None
    for length in (LENGTH - 1, LENGTH + 1, 0, -1):
        error = refused(exact, "router", length, SOUND["seq"], 1)
        assert error.code == Code.LENGTH_UNKNOWN and str(LENGTH) in (error.fix or "")
    assert not asked


def test_what_a_runtime_does_wrong_has_a_code(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = open_package(whole)
    seq = np.ones(LENGTH, np.int32)
    answering(monkeypatch)
    assert refused(run_router, open_device(package), seq).code == Code.RUNTIME_FAILED
    answering(monkeypatch, np.array([8]))
    assert refused(recommend, open_device(package), package, seq).code == Code.ROUTE_UNKNOWN
    assert refused(open_device(package).load, "e9_h9_d9").code == Code.ENTRY_UNKNOWN
    monkeypatch.delitem(sys.modules, RUNTIME)
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings.portable_lib", None)
    assert refused(open_device, package).code == Code.RUNTIME_MISSING


def test_every_code_is_raised_by_a_test() -> None:
    raised = {damage.code for damage in DAMAGES} | {code for code, _, _ in CALLS}
    raised |= {Code.RUNTIME_FAILED, Code.ROUTE_UNKNOWN, Code.RUNTIME_MISSING, Code.LENGTH_UNKNOWN}  # above
    raised |= {Code.RUNTIME_TOO_OLD}  # test_runtime_floors.py
    assert raised == set(Code)


def test_the_documentation_lists_every_code_in_the_order_of_the_checks() -> None:
    section = LOADER_DOCS.read_text(encoding="utf-8").partition("### Refusal codes")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE) == [str(code) for code in Code]


@pytest.mark.parametrize("name", ["a manifest with a key given twice", "a manifest nested 200,000 deep"])
@pytest.mark.parametrize("command", ["inspect", "replay", "parity"])
def test_a_refusal_stands_in_json(
    package: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    damage = next(damage for damage in DAMAGES if damage.name == name)
    exit_code = run([command, str(damage.make(package)), "--json"])
    found = capsys.readouterr()
    error = json.loads(found.out)["error"]
    assert list(error) == ["code", "where", "what", "fix"]
    assert error["code"] == damage.code
    assert error["where"].endswith("manifest.json")
    assert error["what"] in found.err
    assert exit_code == (3 if command == "parity" else 1)


def test_other_errors_have_a_code_in_json_too(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (
        (["inspect", str(package / "none"), "--json"], "error"),
        (["replay", str(package), "--point", "balance", "--json"], "usage"),
        (["replay", str(package), "--nothing", "--json"], "usage"),
    ):
        assert run(arguments)
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert run(["inspect", str(package / "none")])
    assert capsys.readouterr().out == ""


def test_documents_of_other_kinds_are_read_as_strictly(tmp_path: Path) -> None:
    from canet_mobile.files import read_json

    for text in (
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "[NaN]",
        "[1e999]",
        "[" + "1" * 5000 + "]",
        '["\\udfff"]',
    ):
        (tmp_path / "report.json").write_text(text, encoding="utf-8")
        with pytest.raises(CanetError, match=r"report\.json"):
            read_json(tmp_path / "report.json")


def test_what_every_parser_reads_alike_is_read() -> None:
    whole = {"π": ["𝄞", 2**63 - 1, -(2**63), 1.5, True, None, {"a": {}}], "": -0.0}
    for text in (json.dumps(whole), json.dumps(whole, ensure_ascii=False)):
        assert parse_json(text.encode()) == whole
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    assert parse_json(json.dumps(deep).encode()) == deep


def patterns(schema: Any) -> list[str]:
    inner = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema["pattern"]] if isinstance(schema, dict) and isinstance(schema.get("pattern"), str) else []
    return own + [each for part in inner for each in patterns(part)]


def test_every_pattern_of_a_schema_speaks_of_the_whole_text() -> None:
    for path in (ROOT / "schemas").glob("*.schema.json"):
        for pattern in patterns(load_schema(path.name.removesuffix(".schema.json"))):
            assert pattern.startswith("^") and pattern.endswith("$"), (path.name, pattern)


# ---- hash before load

VENDORS = ("executorch", "ai_edge_litert", "onnxruntime", "coremltools", "torch")
MODELS = {
    "executorch": {"canet.pte": PROGRAM},
    "tflite": {"canet.tflite": b"\0\0\0\0TFL3" + bytes(40)},
    "onnx": {"canet.onnx": b"\x08\x0a" + bytes(40), "canet.ort": b"\0\0\0\0ORTM" + bytes(40)},
    "coreml": {
        "canet.mlpackage/Manifest.json": b"{}",
        "canet.mlpackage/Data/model.mlmodel": bytes(40),
        "canet.mlpackage/Data/weights/weight.bin": bytes(40),
    },
}
FLIP = """
import json, sys
from pathlib import Path
from canet_mobile.package.package import open_package
from canet_mobile.package.refusal import Refused
from canet_mobile.replay.device import open_device

codes = []
for folder, name in json.loads(sys.argv[1]):
    package, path = open_package(Path(folder)), Path(folder, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for load in (lambda: open_device(package), lambda: open_package(Path(folder))):
        try:
            load()
            codes.append(None)
        except Refused as error:
            codes.append(error.code)
    path.write_bytes(whole)
print(json.dumps([codes, sorted(sys.modules)]))
"""


def of_target(directory: Path, target: str) -> Path:
    """A package of a target, with marks for model files that no runtime would load."""
    write_package(directory, toy_canet())
    (directory / "canet.pte").unlink()
    for name, data in MODELS[target].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    index = "int64" if target in ("executorch", "onnx") else "int32"
    outputs = {
        "router": {"route": {"shape": [1], "dtype": index}},
        "route": {
            "scores": {"shape": [1, 20], "dtype": "float32"},
            "ids": {"shape": [1, 20], "dtype": index},
        },
    }
    refresh(
        directory,
        target=target,
        model_file=next(iter(MODELS[target])).partition("/")[0],
        outputs=outputs,
        interface={"style": "one_graph" if target == "onnx" else "entries"},
    )
    return directory


def test_a_flipped_bit_is_found_before_any_vendors_library_is_imported(tmp_path: Path) -> None:
    """In a file of each target, after it was opened and before: a runtime would die of it or not notice."""
    flips = [
        (str(of_target(tmp_path / target, target)), name)
        for target, names in MODELS.items()
        for name in names
        if name != "canet.ort"  # beside the model: no runtime here opens it
    ]
    done = subprocess.run(
        [sys.executable, "-c", FLIP, json.dumps(flips)], capture_output=True, encoding="utf-8", check=True
    )
    codes, loaded = json.loads(done.stdout)
    assert codes == ["hash_mismatch"] * 2 * len(flips)
    assert not [name for name in loaded if name.partition(".")[0] in VENDORS]
    assert not [name for name in loaded if name.startswith("canet_mobile.replay.runtimes.")]


def calls_of(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def test_no_runtime_is_reached_but_with_a_package_that_was_verified() -> None:
    """Runtimes take a Package; one function makes those, after every check; one function calls runtimes."""
    sources = [*(ROOT / "canet_mobile").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    runtimes = ROOT / "canet_mobile" / "replay" / "runtimes"
    for path in runtimes.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.unparse(node.args.args[0]) == "package: Package", (path.name, node.name)
    makers = [path.name for path in sources for name in calls_of(path) if name == Package.__name__]
    assert makers == ["package.py"]
    reached = [
        path.name
        for path in sources
        if "replay.runtimes" in path.read_text(encoding="utf-8") and path.parent != runtimes
    ]
    assert reached == ["device.py"]
