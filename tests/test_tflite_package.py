"""From a run to a .tflite package through the command line, and its parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import make_dataset
from test_export_package import make_run

from canet_mobile.cli.export import export
from canet_mobile.cli.parity import parity
from canet_mobile.package.package import open_package
from canet_mobile.replay.device import open_device, recommend

for toolkit in ("litert_torch", "ai_edge_litert"):
    pytest.importorskip(toolkit)


def test_a_run_becomes_a_package_that_passes_parity(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "small")
    run = make_run(tmp_path / "runs" / "first", dataset)
    out = tmp_path / "package"
    made = CliRunner().invoke(
        export,
        [str(run.directory), "--target", "tflite", "--k", "10", "--users", "20", "--out", str(out), "--json"],
    )
    assert made.exit_code == 0, made.exception
    manifest = json.loads(made.stdout)
    assert manifest["model_file"] == "canet.tflite"
    assert manifest["outputs"]["router"]["route"]["dtype"] == "int32"
    assert {"weight_cache", "metadata", "root.router", "root.e8_h8_d2"} <= set(manifest["runtime"])
    assert manifest["accuracy"]["package_host"] is not None
    package = open_package(out)
    device = open_device(package)
    answer = recommend(device, package, package.golden[0].input)
    assert answer.ids.min() >= 1
    assert device.runtime.startswith("ai-edge-litert")
    report = CliRunner().invoke(parity, [str(out), "--run", str(run.directory), "--users", "20", "--json"])
    assert report.exit_code == 0, report.output
    checks = {check["name"]: check["passed"] for check in json.loads(report.stdout)["checks"]}
    assert checks["weights"] and checks["numeric"] and checks["router"]
