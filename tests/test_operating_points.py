"""Operating points: prices of computation, and what each point costs and serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_canet
from evaluation_toys import SPACE, random_histories, toy_dataset
from training_toys import small

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import rank_targets, route_users
from canet_mobile.model.points import POINTS
from canet_mobile.routing.advice import divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.points import price_of, routes_at, set_points
from canet_mobile.run.directory import load_model
from canet_mobile.train.trainer import train

COSTS = np.array([0.1, 0.25, 0.6, 1.0])


def logits(users: int = 500) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((users, len(COSTS)))


def test_the_dearer_computation_is_the_less_is_spent() -> None:
    found = logits()
    spent = [COSTS[routes_at(found, COSTS, price)].mean() for price in np.linspace(-50, 50, 101)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == 1.0 and spent[-1] == pytest.approx(0.1)
    assert (routes_at(found, COSTS, 0.0) == found.argmax(1)).all()


@pytest.mark.parametrize("target", [0.1, 0.2, 0.345, 0.5, 0.87, 1.0])
def test_a_price_spends_up_to_its_target_and_lies_between_two_users(target: float) -> None:
    found = logits()
    price = price_of(found, COSTS, target)
    taken = routes_at(found, COSTS, price)
    assert target - 0.9 / len(found) < COSTS[taken].mean() <= target + 1e-12
    for nearby in (price - 1e-6, price + 1e-6):  # nobody sits on the edge
        assert (routes_at(found, COSTS, nearby) == taken).all()


def test_prices_fall_as_targets_rise() -> None:
    prices = [price_of(logits(), COSTS, target) for target in np.linspace(0.1, 1.0, 10)]
    assert prices == sorted(prices, reverse=True)


@pytest.mark.parametrize("balanced", [None, 0.5, 0.7])
def test_points_are_ordered_by_cost_and_are_what_the_model_routes(balanced: float | None) -> None:
    model = random_canet(items=40, length=6, space=SPACE)
    config = small(embedding=(8, 12), hidden=(8, 16), depth=(1, 2), length=6, seen="keep")
    queries = held_out(toy_dataset(random_histories(300, 40), 40), "validation")
    costs = spending_of(config, 40)
    target = None if balanced is None else balanced * costs.full
    model, points = set_points(model, config, queries, costs, target)
    assert [point["name"] for point in points] == list(POINTS)
    spent = [point["cost"]["value"] for point in points]
    assert spent[0] < spent[1] <= spent[2]
    assert {point["cost"]["unit"] for point in points} == {"paper MFLOPs"}
    if target is not None:
        assert spent[1] - costs.router <= target
    halfway = (spent[1] - costs.router + costs.routes.min()) / 2
    assert halfway - costs.full / 300 < spent[0] - costs.router <= halfway + 1e-9
    assert points[2]["ndcg10"] >= points[1]["ndcg10"] - 1e-9
    seq = torch.from_numpy(queries.inputs(slice(None), 6))
    for number, point in enumerate(points):
        taken = model.route(seq, number).numpy()
        shares = np.bincount(taken, minlength=len(SPACE)) / 300
        assert point["routes"] == {r.entry: s for r, s in zip(SPACE, shares, strict=True) if s}
        assert point["cost"]["value"] == pytest.approx(costs.average(taken))
        assert point["mflops"] == pytest.approx(costs.average(taken))
        ranks = rank_targets(model.supernet, queries, taken).keep
        assert point["ndcg10"] == pytest.approx(ndcg(ranks, 10).mean())


def test_the_papers_router_stays_as_it_was_trained(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(recipe="paper", epochs=1), dataset, tmp_path / "run")
    model = load_model(run)
    assert not model.router.points[POINTS.index("balanced")].any()
    assert model.router.points[POINTS.index("saver")].any()
    choosing, _ = divide_users(dataset)  # points are measured on these, not on all of validation
    taken = route_users(model, choosing)
    shares = np.bincount(taken, minlength=len(model.space)) / len(choosing)
    routing = run.manifest["routing"]
    assert routing["operating_points"][1]["routes"] == {
        route.entry: share for route, share in zip(model.space, shares, strict=True) if share
    }
    assert "advice" not in routing
