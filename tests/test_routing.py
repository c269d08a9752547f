"""The distilled router: what it learns, whom it escalates, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluation_toys import SPACE
from routing_toys import ITEMS, fit, many_users, routed_config
from training_toys import assert_same, small

from canet_mobile.cli.progress import TrainReporter
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.evaluate.scoring import route_users
from canet_mobile.routing import budget as spending
from canet_mobile.routing import candidates as judging
from canet_mobile.routing import distil as routing
from canet_mobile.routing.advice import divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.distil import NEVER, router_logits
from canet_mobile.routing.ladder import SHARES
from canet_mobile.routing.points import set_points
from canet_mobile.routing.validate import budget_warning
from canet_mobile.run.directory import load_model
from canet_mobile.run.reporter import Silent
from canet_mobile.train.trainer import train


@pytest.fixture
def free_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router is larger than these toys; without its cost, shares and budgets bind."""
    monkeypatch.setattr(spending, "router_paper_mflops", lambda length, routes: 0.0)


@pytest.mark.parametrize("label", ["confidence", "entropy"])
@pytest.mark.parametrize("table", ["own", "shared"])
def test_a_seed_gives_the_same_router_twice(label: str, table: str) -> None:
    config, dataset = routed_config(router_label=label, router_table=table), many_users(200)
    (first, summary, ladder), (second, again, _) = fit(config, dataset), fit(config, dataset)
    assert_same(first, second)
    assert summary == again and summary["rule"] == routing.RULES[label]
    other, _, _ = fit(routed_config(router_label=label, router_table=table, seed=1), dataset)
    assert not torch.equal(first.router.head_weight[ladder.large], other.router.head_weight[ladder.large])


@pytest.mark.parametrize(("label", "least"), [("confidence", 0.5), ("entropy", 0.5)])
@pytest.mark.parametrize("seen", ["keep", "exclude"])
def test_the_router_learns_a_label_that_can_be_learnt(
    label: str, least: float, seen: str, free_router: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [SPACE.id_of(SPACE.smallest), SPACE.id_of(SPACE.largest)]
    monkeypatch.setattr(judging, "candidates", lambda space: ends)  # random weights may prefer a dull pair
    config = routed_config(router_label=label, seen=seen)
    _, summary, _ = fit(config, many_users(2000), last_item_only=True)
    assert summary["correlation_with_label"] > least


def test_a_label_that_is_the_same_for_everybody_is_no_error(free_router: None, monkeypatch) -> None:
    real = routing.judge

    def flat(*arguments):
        judged = real(*arguments)
        judged.entropy[:] = 0.5
        return judged

    monkeypatch.setattr(routing, "judge", flat)
    _, summary, _ = fit(routed_config(), many_users(100))
    assert summary["correlation_with_label"] == 0


def test_every_stage_tells_how_far_it_is() -> None:
    heard: list[tuple[str, int, int]] = []

    class Listener(Silent):
        def stage(self, name: str, done: int, total: int) -> None:
            heard.append((name, done, total))

    fit(routed_config(), many_users(300), reporter=Listener())
    names = list(dict.fromkeys(name for name, _, _ in heard))
    assert [name.split()[0] for name in names] == ["judging", "labelling", "fitting"]
    for name in names[:2]:
        done = [n for found, n, _ in heard if found == name]
        assert done == sorted(done)
        assert heard[[found for found, _, _ in heard].index(name)][2] == done[-1]


def test_a_bar_shows_a_stage_until_it_is_over() -> None:
    reporter = TrainReporter(routed_config(epochs=3))
    (bar,) = reporter.progress.tasks
    assert not bar.visible
    reporter.step(1, 4, 8, {"loss": 0.5})
    assert (bar.description, bar.completed, bar.total, bar.visible) == ("epoch 2/3", 4, 8, True)
    reporter.stage("fitting the router, step", 2, 5)
    assert (bar.description, bar.completed, bar.total) == ("fitting the router, step", 2, 5)
    assert bar.visible and bar.fields["parts"] == ""
    reporter.stage("fitting the router, step", 5, 5)
    assert not bar.visible


@pytest.mark.parametrize("budget", [0.6, 0.8, 1.0])
def test_at_balanced_the_chosen_share_of_the_choosing_users_is_escalated(
    budget: float, free_router: None
) -> None:
    config, dataset = routed_config(budget=budget), many_users(500)
    model, summary, ladder = fit(config, dataset)
    choosing, _ = divide_users(dataset)
    costs = spending_of(config, ITEMS)
    model, points = set_points(model, config, choosing, costs, ladder.cost)
    taken = route_users(model, choosing)
    assert set(taken) == {ladder.small, ladder.large}
    assert len(choosing) == 250 and (taken == ladder.large).sum() == int(ladder.share * 250 + 1e-9)
    assert costs.routes[taken].mean() == pytest.approx(ladder.cost) and summary["budget_met"]
    assert costs.average(taken) <= budget * costs.full + 1e-9
    assert points[1]["routes"][summary["large"]] == pytest.approx(ladder.share, abs=1 / 250)


def test_routes_off_the_ladder_are_never_taken() -> None:
    dataset = many_users(100)
    model, summary, ladder = fit(routed_config(), dataset)
    logits = router_logits(model.router, model.supernet, held_out(dataset, "test"))
    off = [n for n in range(len(SPACE)) if n not in (ladder.small, ladder.large)]
    assert (logits[:, off] == NEVER).all() and (logits[:, ladder.small] == 0).all()
    assert logits[:, ladder.large].std() > 0
    assert {summary["small"], summary["large"]} == {
        SPACE.routes[n].entry for n in (ladder.small, ladder.large)
    }


def test_ends_that_nobody_trained_on_are_labelled_after_positions_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = many_users(300)
    fitted: list[tuple[float, list]] = []
    real = routing._fit

    def recorded(router, table, batches, peak, *rest):
        fitted.append((peak, batches))
        real(router, table, batches, peak, *rest)

    monkeypatch.setattr(routing, "_fit", recorded)
    fit(routed_config(), dataset)
    (inside_lr, inside), (ends_lr, ends) = fitted
    assert (inside_lr, ends_lr) == (routing.FIT_LR, routing.ENDS_LR)
    assert sum(len(labels) for _, _, labels in ends) == 150
    assert all(where[:, -1].all() and where.sum() == len(where) for _, where, _ in ends)
    assert all(torch.equal(where, seq > 0) for seq, where, _ in inside)


def test_the_share_of_escalated_users_holds_on_validation(
    dataset: Dataset, tmp_path: Path, free_router: None
) -> None:
    run = train(small(epochs=1, escalate=0.3, budget=1.0), dataset, tmp_path / "run")
    found = run.manifest["routing"]
    share = found["operating_points"][1]["routes"][found["large"]]
    assert share == pytest.approx(found["escalated_share"], abs=0.02) and 0 < share <= 0.3
    assert 0 < found["validation"]["routes"][found["large"]] < 0.5, "users who did not choose are much alike"
    seq = torch.from_numpy(held_out(dataset, "validation").inputs(slice(None), 8))
    space = run.config.space
    ladder = {space.id_of(space.named(found[key])) for key in ("small", "large")}
    assert set(load_model(run).route(seq).tolist()) <= ladder


def test_a_budget_below_the_smallest_route_is_said_to_be_missed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(small(epochs=1, budget=0.01), dataset, tmp_path / "run")
    found = run.manifest["routing"]
    assert found["budget_met"] is False and found["escalated_share"] == SHARES[0]
    (warning,) = budget_warning(found, run.config)
    assert "0.01 of SASRec-full cannot be met" in warning and "--set" in warning
    assert f"{found['operating_points'][1]['cost']['value']:.3g} paper MFLOPs" in warning
    monkeypatch.setattr(spending, "router_paper_mflops", lambda length, routes: 0.0)
    run = train(small(epochs=1, budget=0.9), dataset, tmp_path / "enough")
    assert budget_warning(run.manifest["routing"], run.config) == []
