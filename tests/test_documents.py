"""What crosses a border is read once, at the door, as a typed object that says what the document says."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from replay_toys import torch_device, toy_canet, toy_queries, write_package

from canet_export import parity as parity_module
from canet_mobile.errors import CanetError
from canet_mobile.files import MANIFEST, read_json, write_json
from canet_mobile.package import manifest as manifest_module
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay import documents
from canet_mobile.replay import replay as replay_module
from canet_mobile.replay.reference import package_lists
from canet_mobile.schema import load_schema

ROOT = Path(__file__).parent.parent
CANET = toy_canet()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return open_package(write_package(tmp_path_factory.mktemp("toy") / "package", CANET))


def plain(value: Any) -> Any:
    """A typed object as JSON would print it."""
    return json.loads(json.dumps(dataclasses.asdict(value), default=dict))


def test_the_manifest_says_what_its_document_says(package: Package) -> None:
    document, typed = read_json(package.directory / MANIFEST), plain(package.manifest)
    assert typed.pop("document") == document == package.manifest.document
    same = set(typed) & set(document) - {"interface", "outputs"}
    assert {name: typed[name] for name in same} == {name: document[name] for name in same}
    renamed = {"input_shape", "checkpoint_sha256"}
    assert set(typed) - set(document) == renamed
    assert set(document) - set(typed) == {"schema_version", "kind", "input", "checkpoint"}
    assert package.manifest.interface.point_input == "point"
    assert package.manifest.interface.route_input is None


def test_every_object_of_the_manifest_is_typed_whole() -> None:
    """A field that the schema gains and the class lacks would be dropped without a word."""
    fields = load_schema("manifest")["properties"]
    rows = {
        manifest_module.RouterRow: fields["router"],
        manifest_module.RouteRow: fields["routes"]["items"],
        manifest_module.PointRow: fields["operating_points"]["items"],
        manifest_module.Interface: fields["interface"],
        manifest_module.Part: fields["parts"]["items"],
        manifest_module.IntegersRow: fields["integers"],
        manifest_module.Sizes: fields["sizes"],
        manifest_module.Delegation: fields["delegation"]["items"],
        manifest_module.DatasetName: fields["dataset"],
        manifest_module.ListedFile: load_schema("manifest")["$defs"]["file"],
        manifest_module.Tensor: load_schema("manifest")["$defs"]["tensor"],
    }
    for kind, schema in rows.items():
        assert {field.name for field in dataclasses.fields(kind)} == set(schema["properties"]), kind
    accuracy = {field.name for field in dataclasses.fields(manifest_module.Accuracy)}
    assert accuracy | {"metric"} == set(fields["accuracy"]["properties"])
    known = {field.name for field in dataclasses.fields(manifest_module.Manifest)}
    whole = {"schema_version", "kind", "input", "checkpoint"}  # read at the door, or by their one field
    assert set(fields) - known == whole


def test_nobody_looks_into_the_document_behind_the_door() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for base in ("canet_mobile", "export", "benchmarks")
        for path in (ROOT / base).rglob("*.py")
        if "manifest.document" in path.read_text(encoding="utf-8")
    ]
    assert readers == ["canet_mobile/cli/inspect.py"]  # which prints it


def test_a_parity_report_is_read_as_it_was_written(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = torch_device(
        package, CANET, lambda entry, _, out: out if entry == "router" else (out[0] + 1, out[1])
    )
    monkeypatch.setattr(parity_module, "open_device", lambda _: spoiled)
    report = parity_module.parity(package)
    write_json(tmp_path / "parity.json", report)
    found = documents.read_parity_report(tmp_path / "parity.json")
    assert (found.passed, found.level, found.checkpoint) == (False, "structural", False)
    assert plain(found.package) == report["package"] and plain(found.machine) == report["machine"]
    assert [str(failure) for failure in found.failures] == [
        str(documents.failure_of(row)) for row in report["failures"]
    ]
    assert [(check.name, check.value, check.limit) for check in found.checks] == [
        (row["name"], row["value"], row["limit"]) for row in report["checks"]
    ]
    write_json(tmp_path / "parity.json", {**report, "level": "rough"})
    with pytest.raises(CanetError, match=r"parity\.json: field \$\.level"):
        documents.read_parity_report(tmp_path / "parity.json")


def test_a_replay_report_is_read_as_it_was_written(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "open_device", lambda *_, **__: torch_device(package, CANET))
    data = {"name": "toy", "content_hash": "0" * 64, "split": "test", "users": 40, "of": 40}
    path = tmp_path / "replay.json"
    for reference in (CANET, None):
        lists = None if reference is None else partial(package_lists, reference, package)
        queries = toy_queries()
        seqs = queries.inputs(slice(None), package.length)
        report = {**replay_module.replay(package, seqs, queries.targets, reference=lists), "data": data}
        write_json(path, report)
        found = documents.read_replay_report(path)
        for name in ("package", "device", "machine", "data", "latency_ms", "load_ms", "memory_bytes"):
            assert plain(getattr(found, name)) == report[name], name
        assert found.metrics.ndcg10 == report["metrics"]["package"]["ndcg@10"]
        assert (found.pytorch is None) == (found.agreement is None) == (reference is None)
        assert plain(found.largest) == report["costs"]["largest"]
        assert found.cost.executed_mflops == report["costs"]["executed_mflops"]
        assert [(row.entry, row.users) for row in found.routes] == [
            (row["entry"], row["users"]) for row in report["routes"]
        ]
    path.write_text(path.read_text(encoding="utf-8").replace('"k"', '"k": 3, "k"', 1), encoding="utf-8")
    with pytest.raises(CanetError, match="given twice"):
        documents.read_replay_report(path)
