"""The static graphs are the submodels: equal to Supernet.sliced for every route, and the router to Router."""

from __future__ import annotations

import pytest
import torch
from conftest import lively, random_canet, random_histories

from canet_export.graph import ConstantRouter, RouteGraph, RouterGraph, restricted
from canet_export.slices import Weights, leaves, panels
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import fold_residuals
from canet_mobile.model.points import POINTS
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import PAD_CLASS_BIAS, Supernet, SupernetConfig

ITEMS, LENGTH, K = 60, 9, 10
POINT_IDS = range(len(POINTS))
SPACES = (
    RoutingSpace((8, 12, 20), (4, 8, 16), (1, 2, 3)),
    RoutingSpace((16,), (8,), (1,)),
    RoutingSpace((8, 11), (12, 16), (2, 4)),
    RoutingSpace((40, 64), (8, 12), (1, 3)),
)


def scores(canet: Canet, seq: torch.Tensor, entry: str) -> torch.Tensor:
    return canet.supernet.scores(canet.supernet.sliced(seq, canet.space.named(entry))[:, -1])


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("table", ["shared", "own"])
@torch.no_grad()
def test_every_route_and_the_router_compute_what_the_model_does(space: RoutingSpace, table: str) -> None:
    canet = random_canet(items=ITEMS, length=LENGTH, space=space, table=table, seed=len(space))
    for block in canet.supernet.blocks:
        block.residual1.neg_()  # a negative lambda is a legal one
    folded = fold_residuals(canet)
    weights = Weights(folded)
    router = RouterGraph(weights, folded)
    for seq in random_histories(6, ITEMS, LENGTH).to(torch.int32).split(1):
        for point in POINT_IDS:
            assert torch.equal(router(seq, torch.tensor([point], dtype=torch.int32)), canet.route(seq, point))
        for route in space:
            graph = RouteGraph(weights, folded, route, K, "keep")
            expected = scores(canet, seq, route.entry)
            torch.testing.assert_close(graph.scores(seq), expected, atol=1e-5, rtol=1e-5)
            found, ids = graph(seq)
            torch.testing.assert_close(found, expected.gather(1, ids), atol=1e-5, rtol=1e-5)
            assert found.shape == ids.shape == (1, K)
            assert 0 not in ids


@torch.no_grad()
def test_a_tied_sasrec_without_projection_has_a_router_that_says_zero() -> None:
    space = RoutingSpace((8,), (8,), (2,))
    supernet = Supernet(SupernetConfig(ITEMS, LENGTH, space, in_projection=False, tied=True))
    lively(supernet, torch.Generator().manual_seed(0))
    canet = Canet(supernet, None).eval()
    graph = RouteGraph(Weights(fold_residuals(canet)), canet, space.largest, K, "keep")
    seq = random_histories(1, ITEMS, LENGTH).to(torch.int32)
    torch.testing.assert_close(graph.scores(seq), scores(canet, seq, "e8_h8_d2"), atol=1e-5, rtol=1e-5)
    assert [
        ConstantRouter(LENGTH)(seq, torch.tensor([p], dtype=torch.int32)).tolist() for p in POINT_IDS
    ] == [[0]] * 3


def test_leaves_hold_storage_of_their_own() -> None:
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACES[0])
    graph = RouteGraph(Weights(canet), canet, SPACES[0].largest, K, "keep")
    for leaf in leaves(graph):
        storage = leaf.weight.untyped_storage()
        assert storage.nbytes() == leaf.weight.nbytes, leaf.source
        assert leaf.weight.is_contiguous()


def test_routes_of_equal_width_hold_the_very_same_tensors() -> None:
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACES[0])
    weights = Weights(canet)
    shallow, deep = (
        {leaf.source: leaf.weight.data_ptr() for leaf in leaves(RouteGraph(weights, canet, route, K, "keep"))}
        for route in (canet.space.named("e8_h8_d1"), canet.space.named("e20_h8_d3"))
    )
    common = shallow.keys() & deep.keys()
    assert any(source.name.endswith("item_table") for source in common)
    assert all(shallow[source] == deep[source] for source in common)


@torch.no_grad()
def test_ties_of_the_router_go_to_the_lowest_id() -> None:
    space = SPACES[0]
    router = Router(RouterConfig(ITEMS, LENGTH, len(space), "own", width=8))
    router.head_weight.zero_()
    router.head_bias.zero_()[[3, 7]] = 1.0
    router.points[0, [5, 9]] = 2.0
    canet = Canet(random_canet(items=ITEMS, length=LENGTH, space=space).supernet, router).eval()
    seq = random_histories(1, ITEMS, LENGTH).to(torch.int32)
    graph = RouterGraph(Weights(canet), canet)
    assert [graph(seq, torch.tensor([p], dtype=torch.int32)).tolist() for p in POINT_IDS] == [[5], [3], [3]]


@torch.no_grad()
def test_a_restricted_router_names_exported_routes_only() -> None:
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACES[0])
    assert restricted(canet, range(len(canet.space))) is canet
    seqs = random_histories(50, ITEMS, LENGTH)
    assert canet.router is not None
    canet.router.points[0, [2, 4]] = torch.tensor([3e4, -1.5e4])  # no offset brings back what is not exported
    narrowed = restricted(canet, [4, 11])
    for point in POINT_IDS:
        found, free = narrowed.route(seqs, point), canet.route(seqs, point)
        assert set(found.tolist()) <= {4, 11}
        kept = (free == 4) | (free == 11)
        assert torch.equal(found[kept], free[kept])
    assert set(narrowed.route(seqs, 0).tolist()) == {11}
    assert set(restricted(canet, [4]).route(seqs, 0).tolist()) == {4}


@torch.no_grad()
def test_exclude_never_returns_an_item_of_the_input() -> None:
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACES[0])
    graph = RouteGraph(Weights(fold_residuals(canet)), canet, canet.space.smallest, ITEMS - LENGTH, "exclude")
    for seq in random_histories(5, ITEMS, LENGTH).to(torch.int32).split(1):
        values, ids = graph(seq)
        assert not set(ids[0].tolist()) & set(seq[0].tolist())
        assert values.min() > PAD_CLASS_BIAS / 2


def test_panels_are_nested() -> None:
    assert panels((64, 96, 128), 96) == [(0, 64), (64, 96)]
    assert panels((64, 96, 128), 64) == [(0, 64)]
