"""Split packages: what an app can leave undownloaded, and that nothing is mixed up among the parts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_dataset, random_canet, random_histories
from replay_toys import toy_run

pytest.importorskip("executorch")

from canet_export.executorch.export import export, job_graphs
from canet_export.executorch.parts import part_of
from canet_export.executorch.stored import check_stored
from canet_export.job import ExportResult, Job
from canet_export.sizes import constants, tensor_bytes
from canet_mobile.cli.export import export as export_command
from canet_mobile.cli.parity import parity
from canet_mobile.files import read_json
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.package.manifest import Part
from canet_mobile.package.package import Package, PackageRoute
from canet_mobile.replay.device import Device, RuntimeFailure
from canet_mobile.replay.runtimes.executorch import open_device

ITEMS, LENGTH, K = 150, 10, 12
SPACE = RoutingSpace((16, 32), (16, 32), (1, 2))


def tied_canet() -> Canet:
    torch.manual_seed(0)
    supernet = Supernet(SupernetConfig(ITEMS, LENGTH, SPACE, tied=True))
    return Canet(supernet, Router(RouterConfig(ITEMS, LENGTH, len(SPACE), width=16))).eval()


@dataclass(frozen=True)
class Exported:
    job: Job
    result: ExportResult
    directory: Path

    def opened(self, directory: Path) -> Device:
        """The device of what is in ``directory``; the manifest's hashes would refuse what is incomplete."""
        manifest: Any = SimpleNamespace(
            model_file="canet.pte",
            parts=[Part(name, tuple(users)) for name, users in self.result.parts.items()],
            entries=("router", *(route.entry for route in self.job.routes)),
        )
        routes = tuple(PackageRoute(n, route, 1.0, 1.0) for n, route in enumerate(self.job.routes))
        package = Package(directory, directory, manifest, "", SPACE, routes, (), ())
        return open_device(package, 1)


def exported(folder: Path, canet: Canet, ids: tuple[int, ...], bits: int | None) -> Exported:
    integers = None if bits is None else quantize_model(canet)
    routes = tuple(SPACE.routes[n] for n in ids)
    job = Job(canet, integers, "fp32" if bits is None else "int8", routes, K, split=True)
    return Exported(job, export(job, folder), folder)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACE, table="shared")
    return exported(tmp_path_factory.mktemp("untied"), canet, (0, 1, 2, 5, 7), 8)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("tied"), tied_canet(), (0, 2, 7), None)


@pytest.fixture(params=["untied", "tied"])
def either(request: pytest.FixtureRequest) -> Exported:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def worst_error(found: Exported, device: Device, route: Route) -> float:
    """Largest score error as a share of the largest score; a one-item history is among those tried."""
    worst = 0.0
    for seq in random_histories(3, ITEMS, LENGTH).split(1):
        states = found.job.reference.supernet.sliced(seq, route)
        full = found.job.reference.supernet.scores(states[:, -1])
        scores, ids = map(
            torch.from_numpy, device.call(route.entry, seq[0].numpy().astype(np.int32), BALANCED).outputs
        )
        error = (scores - full.gather(1, ids)).abs().max() / full[:, 1:].abs().max()
        worst = max(worst, float(error))
    return worst


def test_every_route_runs_with_its_own_parts_alone(either: Exported, tmp_path: Path) -> None:
    limit = 0.05 if either.job.integers is not None else 1e-4
    for route in either.job.routes:
        folder = tmp_path / route.entry
        folder.mkdir()
        names = [name for name, users in either.result.parts.items() if {route.entry, "router"} & set(users)]
        for name in ("canet.pte", *names):
            shutil.copy(either.directory / name, folder / name)
        device = either.opened(folder)
        assert worst_error(either, device, route) <= limit
        seq = random_histories(3, ITEMS, LENGTH)[2:]
        for point in range(len(POINTS)):
            (answer,) = device.call("router", seq[0].numpy().astype(np.int32), point).outputs
            assert int(answer[0]) == int(either.job.reference.route(seq, point))


def test_a_missing_part_is_named_with_the_method_that_needs_it(untied: Exported, tmp_path: Path) -> None:
    shutil.copy(untied.directory / "canet.pte", tmp_path / "canet.pte")
    device = untied.opened(tmp_path)
    one = np.ones(LENGTH, np.int32)
    assert device.call("e16_h16_d1", one, BALANCED).outputs[0].shape == (1, K)
    with pytest.raises(RuntimeFailure, match=r"'e16_h16_d2' needs the part 'layers_h16_d2\.ptd'"):
        device.call("e16_h16_d2", one, BALANCED)


def test_a_part_that_is_damaged_is_a_runtime_failure(untied: Exported, tmp_path: Path) -> None:
    for name in ("canet.pte", *untied.result.parts):
        shutil.copy(untied.directory / name, tmp_path / name)
    (tmp_path / "panel_e32.ptd").write_bytes(b"\0" * 300)
    with pytest.raises(RuntimeFailure):
        untied.opened(tmp_path).call("e32_h32_d2", np.ones(LENGTH, np.int32), BALANCED)


def test_parts_and_their_users(untied: Exported) -> None:
    parts = untied.result.parts
    assert set(parts) == {"panel_e32.ptd", "layers_h16_d2.ptd", "layers_h32_d1.ptd", "layers_h32_d2.ptd"}
    assert untied.result.files == ("canet.pte", *parts)
    assert set(untied.result.files) == {path.name for path in untied.directory.iterdir()}
    assert parts["panel_e32.ptd"] == ("e32_h16_d2", "e32_h32_d2")
    assert parts["layers_h16_d2.ptd"] == ("e16_h16_d2", "e32_h16_d2")
    assert parts["layers_h32_d1.ptd"] == ("e16_h32_d1", "e32_h32_d2")
    assert parts["layers_h32_d2.ptd"] == ("e32_h32_d2",)


def test_a_tied_table_stands_once(tied: Exported) -> None:
    table = tied.job.reference.supernet.item_table.detach()[:, 16:].contiguous().numpy().tobytes()
    files = [(tied.directory / name).read_bytes() for name in tied.result.files]
    assert sum(blob.count(table) for blob in files) == 1
    assert "router" in tied.result.parts["table_0_16.ptd"]
    sizes = tied.result.sizes
    assert sizes.total_bytes == sum(map(len, files))
    assert sizes.classifier_bytes < sizes.item_table_bytes  # its bias alone


def test_a_flipped_bit_in_a_part_is_named(either: Exported, tmp_path: Path) -> None:
    assert check_stored(either.directory, either.job).passed
    shutil.copytree(either.directory, tmp_path / "copy")
    path = tmp_path / "copy" / "layers_h32_d2.ptd"
    kind = "weight" if either.job.integers is None else "values"
    held = dict(constants(job_graphs(either.job)["e32_h32_d2"]))
    wanted = tensor_bytes(held[f"blocks.1.ffn1.{kind}"])
    blob = bytearray(path.read_bytes())
    assert blob.count(wanted) == 1
    blob[blob.find(wanted) + 100] ^= 1
    path.write_bytes(bytes(blob))
    (failure,) = check_stored(tmp_path / "copy", either.job).failures
    assert (failure.entry, failure.tensor) == ("e32_h32_d2", f"blocks.1.ffn1.{kind}")
    assert "1 other byte(s)" in failure.found
    assert "of layers_h32_d2.ptd" in failure.found


def test_which_part() -> None:
    routes = RoutingSpace((64, 96, 128), (64, 96, 128), (2, 4)).routes

    def part(condition: Any) -> str | None:
        return part_of([route for route in routes if condition(route)], routes)

    assert part(lambda r: True) is None
    assert part(lambda r: r.embedding >= 96) == "panel_e96"
    assert part(lambda r: r.hidden >= 96) == "panel_h96"
    assert part(lambda r: r.hidden == 64) is None
    assert part(lambda r: r.hidden == 64 and r.depth == 4) == "layers_h64_d4"
    assert part(lambda r: r.hidden == 96) == "layers_h96_d2"
    assert part(lambda r: r.hidden == 128 and r.depth == 4) == "layers_h128_d4"
    assert part(lambda r: r.depth == 4) is None  # a mask: too small for a file of its own


def test_through_the_command_line(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "small")
    space = RoutingSpace((8,), (8, 16), (1,))
    canet = random_canet(items=dataset.num_items, length=8, space=space)
    run = toy_run(tmp_path / "run", dataset, canet)
    out = tmp_path / "package"
    arguments = [run.directory, "--target", "executorch", "--k", 5, "--split", "--out", out]
    result = CliRunner().invoke(export_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.exception
    parts = read_json(out / "manifest.json")["parts"]
    assert [part["name"] for part in parts] == ["layers_h16_d1.ptd"]
    assert parts[0]["entries"] == ["e8_h16_d1"]
    result = CliRunner().invoke(parity, [str(out), "--run", str(run.directory)])
    assert result.exit_code == 0, result.output
    (out / "layers_h16_d1.ptd").unlink()
    result = CliRunner().invoke(parity, [str(out)])
    assert getattr(result.exception, "exit_code", None) == 3
    assert "layers_h16_d1.ptd" in str(result.exception)
