"""The whole evaluation: its document, its verdict, its command."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from evaluation_toys import random_histories, toy_canet, toy_dataset

from canet_mobile.cli.evaluate import evaluate as command
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError
from canet_mobile.evaluate import references
from canet_mobile.evaluate.evaluation import evaluate_model, save_evaluation
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.report import evaluation_text
from canet_mobile.evaluate.routing import best_fixed
from canet_mobile.evaluate.scoring import rank_all_routes, rank_targets, route_users
from canet_mobile.evaluate.verdict import verdict
from canet_mobile.model import costs
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.schema import validate

ITEMS = 40


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(random_histories(150, ITEMS, seed=3), ITEMS)


@pytest.fixture(scope="module")
def canet():
    return toy_canet(ITEMS)


@pytest.fixture(scope="module")
def document(canet, dataset):
    return evaluate_model(canet, dataset)


@pytest.fixture(scope="module")
def priced(canet, dataset):
    """A model whose operating points lean to small routes, to none and to large ones, and its document."""
    model = Canet(canet.supernet, copy.deepcopy(canet.router))
    lean = torch.tensor([[-3.0], [0.0], [3.0]]) * torch.linspace(-1, 1, len(canet.space))
    model.router.points.copy_(lean)
    return model, evaluate_model(model, dataset)


def test_the_document_is_of_its_schema(document) -> None:
    validate(document, "evaluation", where="document")
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_routed_alone_gives_the_same_ranks(canet, dataset, document) -> None:
    quick = evaluate_model(canet, dataset, routes="routed")
    validate(quick, "evaluation", where="document")
    for key in ("routed", "floors", "groups", "costs"):
        assert quick[key] == document[key]
    assert quick["routes"] is None
    assert quick["routing"]["best_fixed"] is None


def test_costs_are_those_of_the_argmax_routes_and_the_router(canet, dataset, document) -> None:
    ids = route_users(canet, held_out(dataset, "test"))
    each = [costs.paper_mflops(ITEMS, 6, canet.space.routes[n]) for n in ids]
    router = costs.router_paper_mflops(6, len(canet.space))
    assert document["costs"]["paper_mflops"] == pytest.approx(np.mean(each) + router, abs=1e-3)
    assert document["routing"]["histogram"] == np.bincount(ids, minlength=8).tolist()
    assert sum(row["users"] for row in document["routes"]) == document["users"] == 150


def test_every_operating_point_is_judged_on_the_routes_it_gives(priced, dataset) -> None:
    model, document = priced
    validate(document, "evaluation", where="document")
    queries, points = held_out(dataset, "test"), document["routing"]["operating_points"]
    assert [(row["id"], row["name"]) for row in points] == list(enumerate(POINTS))
    for row in points:
        ids = route_users(model, queries, row["id"])
        assert row["histogram"] == np.bincount(ids, minlength=8).tolist()
        ranks = rank_targets(model.supernet, queries, ids)
        assert row["keep"]["ndcg@10"] == pytest.approx(ndcg(ranks.keep, 10).mean())
        assert row["exclude"]["ndcg@10"] == pytest.approx(ndcg(ranks.exclude, 10).mean())
        each = [costs.paper_mflops(ITEMS, 6, model.space.routes[n]) for n in ids]
        router = costs.router_paper_mflops(6, 8)
        assert row["paper_mflops"] == pytest.approx(np.mean(each) + router, abs=1e-3)
        full = document["costs"]["sasrec_full_paper_mflops"]
        assert row["share_of_full"] == pytest.approx(row["paper_mflops"] / full, abs=1e-4)
        assert row["largest_share"] == max(row["histogram"]) / 150
    saver, balanced, best = points
    assert saver["paper_mflops"] < balanced["paper_mflops"] < best["paper_mflops"]
    assert (balanced["keep"], balanced["exclude"]) == tuple(document["routed"].values())
    assert saver["keep"] != balanced["keep"] != best["keep"]


def test_points_of_the_routed_pass_are_those_of_the_table(priced, dataset) -> None:
    model, document = priced
    stages = set()
    quick = evaluate_model(model, dataset, routes="routed", report=lambda name, *_: stages.add(name))
    assert quick["routing"]["operating_points"] == document["routing"]["operating_points"]
    assert stages == {"ranking", "ranking at saver", "ranking at best"}


def test_groups_are_a_partition(document) -> None:
    groups = document["groups"]
    assert groups["head"]["users"] + groups["tail"]["users"] == 150
    mean = sum(g["users"] * g["keep"]["ndcg@10"] for g in groups.values()) / 150
    assert mean == pytest.approx(document["routed"]["keep"]["ndcg@10"])


def test_best_fixed_is_chosen_on_validation_and_reported_on_test(canet, dataset, document) -> None:
    paper = np.array([row["paper_mflops"] for row in document["routes"]])
    on = {
        split: ndcg(rank_all_routes(canet.supernet, held_out(dataset, split)).keep, 10).mean(1)
        for split in ("validation", "test")
    }
    budget = document["costs"]["paper_mflops"]
    chosen = best_fixed(paper, on["validation"], budget)
    found = document["routing"]["best_fixed"]["keep"]
    assert {r["id"]: r["weight"] for r in found["routes"]} == pytest.approx(chosen.weights())
    assert found["validation"] == pytest.approx(chosen.expected(on["validation"]))
    assert found["ndcg@10"] == pytest.approx(chosen.expected(on["test"]))
    assert found["paper_mflops"] <= budget + 1e-3
    # The toy is such that choosing on test would have been another choice.
    assert best_fixed(paper, on["test"], budget).weights() != chosen.weights()


def test_random_routing_difference(document) -> None:
    random = document["routing"]["random"]["exclude"]
    shares = np.array(document["routing"]["histogram"]) / 150
    means = np.array([row["exclude"]["recall@20"] for row in document["routes"]])
    assert random["recall@20"] == pytest.approx(shares @ means)
    gap = random["difference"]["recall@20"]
    own = document["routed"]["exclude"]["recall@20"]
    assert gap["value"] == pytest.approx(own - random["recall@20"])


def test_limit_and_progress(canet, dataset) -> None:
    seen = []
    limited = evaluate_model(canet, dataset, limit=20, report=lambda *step: seen.append(step))
    assert (limited["users"], limited["limit"]) == (20, 20)
    assert {stage for stage, _, _ in seen} == {"test: every route", "validation: every route"}
    assert seen[-1][1:] == (160, 160)


def test_a_plain_sasrec(dataset) -> None:
    plain = toy_canet(ITEMS, space=RoutingSpace((16,), (16,), (2,)), router=False)
    found = evaluate_model(plain, dataset)
    validate(found, "evaluation", where="document")
    assert (found["model"], found["routing"], len(found["routes"])) == ("sasrec", None, 1)
    assert found["costs"]["router_paper_mflops"] == 0
    assert found["costs"]["paper_mflops"] == costs.sasrec_paper_mflops(ITEMS, 6, 16, 2)
    text = evaluation_text(found)
    assert "router" not in text
    assert "floor: markov" in text


def test_other_items_are_refused(canet) -> None:
    with pytest.raises(CanetError, match="the model has 40 items, the data set 12"):
        evaluate_model(canet, toy_dataset([[1, 2, 3]], 12))


GOOD, NONE, BAD = {"value": 0.01, "se": 0.001}, {"value": 0.01, "se": 0.01}, {"value": -0.1, "se": 0.01}


@pytest.mark.parametrize(
    ("users", "random", "fixed", "said"),
    [
        (1000, GOOD, GOOD, "routing pays"),
        (999, GOOD, GOOD, "routing is not seen to pay"),
        (1000, NONE, GOOD, "routing is not seen to pay"),
        (1000, GOOD, NONE, "routing is not seen to pay: the router knows its users"),
        (1000, NONE, BAD, "routing is not seen to pay"),
    ],
)
def test_verdict_on_routing(document, users: int, random, fixed, said: str) -> None:
    changed = copy.deepcopy(document) | {"users": users}
    changed["routing"]["random"]["keep"]["difference"]["ndcg@10"] = random
    changed["routing"]["best_fixed"]["keep"]["difference"]["ndcg@10"] = fixed
    assert said in verdict(changed)[0]


@pytest.mark.parametrize(("gap", "said"), [(GOOD, "beats"), (NONE, "is as good"), (BAD, "is better")])
def test_verdict_on_markov(document, gap, said: str) -> None:
    changed = copy.deepcopy(document)
    changed["floors"]["markov"]["difference"]["keep"]["ndcg@10"] = gap
    assert said in verdict(changed)[1]


def test_verdict_on_a_collapsed_router(document) -> None:
    changed = copy.deepcopy(document)
    changed["routing"]["routes_used"] = 1
    assert "every user to one route" in verdict(changed)[0]


def test_text_names_everything(document) -> None:
    text = evaluation_text(document)
    for words in (
        "routed",
        "floor: popularity",
        "floor: markov",
        "best fixed, same cost",
        "random, same histogram",
    ):
        assert f"\n{words} " in text
    for row in document["routes"]:
        assert f"\n{row['entry']} " in text
    for row in document["routing"]["operating_points"]:
        assert f"\n{row['name']} " in text
    assert all(sentence in text for sentence in document["verdict"])
    assert "None" not in text


@pytest.fixture
def run(canet, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory whose model and data set are the toys."""
    from canet_mobile.run import directory as runs

    found = SimpleNamespace(directory=tmp_path, name="first", checkpoint_sha256="a" * 64)
    monkeypatch.setattr(runs, "find_run", lambda path=None: found)
    monkeypatch.setattr(runs, "load_model", lambda run: canet)
    monkeypatch.setattr(runs, "open_dataset", lambda run, override=None: dataset)
    return tmp_path


def test_command_json_is_what_it_saves(run: Path, document) -> None:
    result = CliRunner().invoke(command, [str(run), "--json", "--out", str(run / "copy.json")])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["run"] == {"name": "first", "checkpoint_sha256": "a" * 64}
    assert printed | {"run": None} == document
    for name in ("evaluation-test.json", "copy.json"):
        assert json.loads((run / name).read_text(encoding="utf-8")) == printed


def test_a_partial_evaluation_is_not_kept(run: Path) -> None:
    result = CliRunner().invoke(command, ["--split", "validation", "--limit", "30", "--routes", "routed"])
    assert result.exit_code == 0, result.output
    assert "validation: 30 users" in result.stdout
    assert not list(run.iterdir())


def test_a_wrong_document_is_not_saved(document, tmp_path: Path) -> None:
    with pytest.raises(CanetError, match="routed"):
        save_evaluation(tmp_path, document | {"routed": {}})
    assert not list(tmp_path.iterdir())


def test_chosen_by_is_said_in_the_document(document) -> None:
    assert document["routing"]["chosen_by"] == references.CHOSEN_BY
