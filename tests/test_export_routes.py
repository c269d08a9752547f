"""Which routes a package holds by default, and that its router answers nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_dataset, random_canet
from replay_toys import invoke, toy_canet, toy_dataset, toy_run

from canet_export.graph import restricted
from canet_export.routes import routes_in_use, routes_within
from canet_mobile.cli.export import export
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import UsageError
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.package import open_package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import open_device, run_router

LENGTH, USERS = 8, 1000
SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))
SAVER, BEST = POINTS.index("saver"), POINTS.index("best")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "small", users=USERS)


def routing_as(dataset: Dataset, counts: dict[int, tuple[int, int]]) -> Canet:
    """A model whose router gives, at a point of ``counts``, a route to so many of the validation users: those
    with the highest of some score. All others get route 0."""
    canet = random_canet(items=dataset.num_items, length=LENGTH, space=SPACE, table="own")
    router = canet.router
    assert router is not None
    seqs = torch.from_numpy(held_out(dataset, "validation").inputs(slice(None), LENGTH)).long()
    with torch.no_grad():
        direction = router.head_weight[1].clone()
        router.head_weight.zero_()
        router.head_bias.zero_()
        router.head_weight[1:] = direction
        score = router(seqs, canet.supernet.item_table)[:, 1].sort(descending=True).values
        router.points.fill_(-1e3)
        router.points[:, 0] = 0.0
        for point, (route, count) in counts.items():
            router.points[point, route] = -(score[count - 1] + score[count]) / 2
    return canet.eval()


def users_of(dataset: Dataset, canet: Canet, point: int) -> np.ndarray:
    seqs = torch.from_numpy(held_out(dataset, "validation").inputs(slice(None), LENGTH)).long()
    return canet.route(seqs, point).numpy()


def kept(dataset: Dataset, canet: Canet) -> tuple[list[int], tuple[float, ...]]:
    found = routes_in_use(canet, held_out(dataset, "validation"))
    return [canet.space.id_of(route) for route in found.routes], found.moved


def test_a_route_needs_one_user_in_a_hundred_at_some_point(dataset: Dataset) -> None:
    one = len(held_out(dataset, "validation")) // 100
    assert one * 100 == USERS
    enough = routing_as(dataset, {SAVER: (3, one), BEST: (5, one - 1)})
    assert (users_of(dataset, enough, SAVER) == 3).sum() == one
    assert (users_of(dataset, enough, BEST) == 5).sum() == one - 1
    assert kept(dataset, enough) == ([0, 3], (0.0, 0.0, (one - 1) / USERS))
    assert kept(dataset, routing_as(dataset, {BEST: (5, one)})) == ([0, 5], (0.0, 0.0, 0.0))


def test_whatever_balanced_gives_to_anybody_is_kept(dataset: Dataset) -> None:
    rare = routing_as(dataset, {BALANCED: (6, 1)})
    assert (users_of(dataset, rare, BALANCED) == 6).sum() == 1
    assert kept(dataset, rare) == ([0, 6], (0.0, 0.0, 0.0))


def test_a_router_that_uses_all_routes_keeps_all_and_a_plain_sasrec_its_one(dataset: Dataset) -> None:
    canet = random_canet(items=dataset.num_items, length=LENGTH, space=RoutingSpace((8,), (8,), (1, 2)))
    assert kept(dataset, canet) == ([0, 1], (0.0, 0.0, 0.0))
    plain = random_canet(items=dataset.num_items, length=LENGTH, space=RoutingSpace((8,), (8,), (2,)))
    assert kept(dataset, Canet(plain.supernet, None)) == ([0], (0.0, 0.0, 0.0))


def test_the_restricted_router_answers_what_is_held_and_moves_the_rare_alone(dataset: Dataset) -> None:
    """Of every validation user at every point; those whose route is held keep it."""
    rare = {SAVER: (7, 9), BALANCED: (2, 400), BEST: (4, 5)}
    canet = routing_as(dataset, rare)
    ids, moved = kept(dataset, canet)
    assert ids == [0, 2] and moved[SAVER] > 0 and moved[BEST] > 0 and moved[BALANCED] == 0
    narrowed = restricted(canet, ids)
    for point in range(len(POINTS)):
        free, found = users_of(dataset, canet, point), users_of(dataset, narrowed, point)
        assert set(found.tolist()) <= set(ids)
        assert (free != found).mean() == moved[point]
        assert np.isin(free[free != found], ids).sum() == 0


def test_no_route_is_within_a_price_below_the_cheapest(dataset: Dataset) -> None:
    canet = random_canet(items=dataset.num_items, length=LENGTH, space=SPACE)
    with pytest.raises(UsageError, match=r"no route is that cheap[\s\S]*\(e8_h8_d1\)"):
        routes_within(canet, 1e-4)
    assert routes_within(canet, 1e3) == SPACE.routes


@pytest.mark.parametrize(
    ("target", "toolkit"),
    [
        ("executorch", "executorch"),
        ("coreml", "coremltools"),
        ("tflite", "litert_torch"),
        ("onnx", "onnxruntime"),
    ],
)
def test_a_package_of_some_routes_refuses_another_by_name(tmp_path: Path, target: str, toolkit: str) -> None:
    """And says which it holds, of which space; its router answers no other to any validation user."""
    pytest.importorskip(toolkit)
    dataset = toy_dataset(tmp_path / "dataset")
    run = toy_run(tmp_path / "run", dataset, toy_canet())
    held = ("e8_h8_d1", "e16_h16_d1")
    made = invoke(
        export, run.directory, "--target", target, "--routes", ",".join(held), "--k", 10, "--users", 0,
        "--out", tmp_path / "some", "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.exception
    manifest = json.loads(made.stdout)
    assert tuple(row["entry"] for row in manifest["routes"]) == held
    assert manifest["space"] == {"embedding": [8, 16], "hidden": [8, 16], "depth": [1, 2]}
    package = open_package(tmp_path / "some")
    device = open_device(package)
    seqs = held_out(dataset, "validation").inputs(slice(None), package.length)
    for call in (lambda: device.load("e8_h8_d2"), lambda: device.call("e8_h8_d2", seqs[0], BALANCED)):
        with pytest.raises(Refused, match=r"unknown entry 'e8_h8_d2'") as error:
            call()
        assert error.value.code is Code.ENTRY_UNKNOWN and "e16_h16_d1, e8_h8_d1" in str(error.value)
    answers = {run_router(device, seq, point)[0] for seq in seqs for point in range(len(POINTS))}
    assert answers <= {route.id for route in package.routes}
