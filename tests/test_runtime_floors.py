"""The oldest runtimes: what the manifest states is what was measured, and an older one is refused."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import pytest

from canet_export.floors import FLOORS
from canet_mobile.errors import CanetError
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay import device, guard
from canet_mobile.replay.guard import DISTRIBUTIONS, release, require_runtime

RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "runtime_floors.json"
ROWS = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("target", DISTRIBUTIONS)
def test_the_stated_floor_is_the_oldest_from_which_on_all_were_right(target: str) -> None:
    mine = [row for row in ROWS if (row["target"], row["distribution"]) == (target, DISTRIBUTIONS[target])]
    assert {row["quantization"] for row in mine} == {"fp32", "int8"}
    mine.sort(key=lambda row: release(row["version"]), reverse=True)
    floor = None
    for version, rows in groupby(mine, key=lambda row: row["version"]):
        if any(row["rows_right"] < row["rows"] for row in rows):
            break
        floor = version
    assert FLOORS[target].minimum == floor


def test_the_record_has_a_runtime_that_is_wrong_without_a_word() -> None:
    wrong = [row for row in ROWS if row["rows_right"] < row["rows"] and row["error"] is None]
    assert {("tensorflow-cpu", "2.17.1", "int8")} <= {
        (row["distribution"], row["version"], row["quantization"]) for row in wrong
    }


def a_package(target: str, minimum: str | None) -> SimpleNamespace:
    runtime = {"name": FLOORS[target].name, "minimum": minimum}
    manifest = SimpleNamespace(target=target, runtime=runtime)
    return SimpleNamespace(manifest=manifest, source=Path("package"))


def test_an_older_runtime_is_refused_by_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    package = a_package("tflite", "1.0.1")
    for found in ("1.0.1", "1.0.10", "1.2", "2.3.0+cpu"):
        monkeypatch.setattr(guard, "version", lambda name, found=found: found)
        require_runtime(package)  # type: ignore[arg-type]
    for found in ("1.0", "1.0.0", "0.9.9"):
        monkeypatch.setattr(guard, "version", lambda name, found=found: found)
        with pytest.raises(Refused, match=rf"needs LiteRT 1\.0\.1 or newer; ai-edge-litert {found}") as error:
            require_runtime(package)  # type: ignore[arg-type]
        assert error.value.code is Code.RUNTIME_TOO_OLD
    require_runtime(a_package("tflite", None))  # type: ignore[arg-type]
    require_runtime(a_package("coreml", None))  # type: ignore[arg-type]


def test_open_device_asks_for_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "version", lambda name: "0.1")
    with pytest.raises(CanetError, match="or newer"):
        device.open_device(a_package("onnx", "1.20.1"))  # type: ignore[arg-type]
