"""Whether to ship the router: who is asked, what is compared, and what is said."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_toys import SPACE
from routing_toys import ITEMS, fit, many_users, routed_config
from training_toys import small

from canet_mobile.data.dataset import Dataset
from canet_mobile.evaluate import routing
from canet_mobile.evaluate.scoring import route_users
from canet_mobile.routing import advice
from canet_mobile.routing import budget as spending
from canet_mobile.routing.advice import advise, divide_users, sentence, ships_router
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.candidates import judge
from canet_mobile.routing.points import set_points
from canet_mobile.train.trainer import train


@pytest.mark.parametrize(
    ("users", "most", "expected"), [(300, 10_000, (150, 150)), (301, 100, (100, 201)), (1, 10, (1, 1))]
)
def test_users_who_choose_do_not_advise(
    users: int, most: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "CHOOSING_USERS", most)
    dataset = many_users(users)
    choosing, others = divide_users(dataset)
    assert (len(choosing), len(others)) == expected
    assert users == 1 or not set(choosing.users) & set(others.users)
    assert (others.ends == dataset.offsets[others.users + 1] - 2).all(), "the test item stays out"


def test_many_other_users_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "CHOOSING_USERS", 10)
    monkeypatch.setattr(advice, "OTHER_USERS", 50)
    _, others = divide_users(many_users(200))
    assert len(others) == 50 and others.users.max() == 198
    assert set(np.diff(others.users).tolist()) <= {2, 3, 4, 5, 6}


@pytest.mark.parametrize("seen", ["keep", "exclude"])
def test_the_router_is_compared_with_chance_and_with_one_route(
    seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "router_paper_mflops", lambda length, routes: 0.0)
    config, dataset = routed_config(seen=seen), many_users(400)
    model, summary, ladder = fit(config, dataset)
    choosing, others = divide_users(dataset)
    costs = spending_of(config, ITEMS)
    model, _ = set_points(model, config, choosing, costs, ladder.cost)
    found = advise(model, config, others, summary["best_fixed"])

    chose = judge(model.supernet, choosing, seen)
    affordable = {
        r: v.mean()
        for r, v in zip(chose.routes, chose.smoothed, strict=True)
        if costs.routes[r] <= ladder.cost
    }
    fixed = max(affordable, key=lambda r: affordable[r])
    assert found["fixed"] == SPACE.routes[fixed].entry

    judged = judge(model.supernet, others, seen)
    per_route = dict(zip(judged.routes, judged.ndcg10, strict=True))
    taken = route_users(model, others)
    up = taken == ladder.large
    assert found["users"] == len(taken) and 0 < up.mean() < 1
    routed = np.where(up, per_route[ladder.large], per_route[ladder.small])
    blind = up.mean() * per_route[ladder.large] + (1 - up.mean()) * per_route[ladder.small]
    for name, reference in (("against_random", blind), ("against_fixed", per_route[fixed])):
        gap = routed - reference
        assert found[name]["value"] == pytest.approx(gap.mean(), abs=1e-9)
        assert found[name]["se"] == pytest.approx(gap.std(ddof=1) / np.sqrt(len(gap)), rel=1e-6)


@pytest.mark.parametrize(
    ("random", "fixed", "fewest", "ships"),
    [
        (0.004, 0.004, 50, True),
        (0.004, 0.004, 51, False),
        (0.0031, 0.0031, 50, True),
        (0.0029, 0.004, 50, False),
        (0.004, 0.0029, 50, False),
        (-0.004, -0.004, 50, False),
        (-0.004, -0.004, 51, False),
    ],
)
def test_only_clear_gains_of_enough_users_against_both_ship_the_router(
    random: float, fixed: float, fewest: int, ships: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = iter([{"value": random, "se": 0.001}, {"value": fixed, "se": 0.001}])
    monkeypatch.setattr(routing, "FEWEST_USERS", fewest)
    monkeypatch.setattr(advice, "paired", lambda left, right: next(gaps))
    model, summary, _ = fit(routed_config(), many_users(100))
    found = advise(model, routed_config(), divide_users(many_users(100))[1], summary["best_fixed"])
    assert ships_router(found) is ships and set(found) == {"fixed", "users", *advice.AGAINST}
    text = sentence(found)
    assert text.startswith("ship the router:") is ships
    entry = summary["best_fixed"]
    assert (f"ship {entry} for everybody (export --route {entry})" in text) is not ships
    assert f"{fixed:+.4f} ± 0.0010 against {entry}" in text and "50 validation users" in text
    assert ("users cannot tell its gains from luck" in text) is (fewest > 50 and random > 0)


def test_a_run_tells_its_advice(dataset: Dataset, tmp_path) -> None:
    run = train(small(epochs=1, budget=1.0), dataset, tmp_path / "run")
    routing = run.manifest["routing"]
    assert set(routing["advice"]) == {"fixed", "users", "against_random", "against_fixed"}
    assert "best_fixed" not in routing and routing["advice"]["users"] == len(divide_users(dataset)[1])
    paper = train(small(epochs=1, recipe="paper"), dataset, tmp_path / "paper")
    assert "advice" not in paper.manifest["routing"]
