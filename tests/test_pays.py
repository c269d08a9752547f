"""When routing pays: `train`, `evaluate` and `compare` say so by one rule, and no record holds its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canet_mobile.compare import verdict as compared
from canet_mobile.evaluate import verdict as evaluated
from canet_mobile.evaluate.routing import FEWEST_USERS, SURE, pays
from canet_mobile.routing.advice import sentence, ships_router

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ERROR = 0.001
MANY = 25_000


def gap(errors: float) -> dict[str, float]:
    """A gain of so many standard errors."""
    return {"value": errors * ERROR, "se": ERROR}


def of_train(users: int, random: float, fixed: float) -> str:
    """What `train` advises."""
    gaps = {"against_random": gap(random), "against_fixed": gap(fixed)}
    advice = {"fixed": "e8_h8_d1", "users": users, **gaps}
    assert sentence(advice).startswith("ship the router") is ships_router(advice)
    return sentence(advice)


def of_evaluate(users: int, random: float, fixed: float) -> str:
    """What `evaluate` says."""
    routing = {
        "routes_used": 2,
        "random": {"keep": {"difference": {"ndcg@10": gap(random)}}},
        "best_fixed": {
            "keep": {
                "difference": {"ndcg@10": gap(fixed)},
                "routes": [{"id": 0, "entry": "e8_h8_d1", "weight": 1.0}],
            }
        },
    }
    (said,) = evaluated._routing_sentences(routing, users, "keep")
    return said


@pytest.mark.parametrize("larger", ["se_users", "se"])
def test_compare_takes_the_larger_of_its_two_errors(larger: str) -> None:
    assert "Routing pays" in of_compare(MANY, 4, 4, larger)
    assert "Routing pays" not in of_compare(MANY, 2.5, 4, larger)


def of_compare(users: int, random: float, fixed: float, larger: str = "se_users") -> str:
    """What `compare` says of a CANet's router."""

    def reference(errors: float) -> dict:
        found = {"mean": errors * ERROR, "se_users": ERROR / 4, "se": ERROR / 4} | {larger: ERROR}
        return {"keep": {"difference": found}}

    mean = {"mean": 0.5}
    routing = {"routes_used": mean, "largest_share": mean, "normalised_entropy": mean}
    routing |= {"random": reference(random), "best_fixed": reference(fixed)}
    return compared._routing_sentence({"title": "CANet", "routing": routing}, users, "keep")


@pytest.mark.parametrize(
    ("users", "random", "fixed", "expected"),
    [
        (MANY, 3.1, 3.1, True),
        (MANY, 6.6, 2.5, False),  # enough for the rule of two that was fitted to one data set
        (MANY, 2.5, 6.6, False),
        (MANY, 2.9, 3.1, False),
        (MANY, 3.1, -3.1, False),
        (MANY, -5.0, -5.0, False),
        (1_000, 3.1, 3.1, True),
        (999, 9.0, 9.0, False),
        (999, 1.0, 1.0, False),
    ],
)
def test_all_commands_say_the_same(users: int, random: float, fixed: float, expected: bool) -> None:
    assert (SURE, FEWEST_USERS) == (3.0, 1_000)
    assert pays(users, gap(random), gap(fixed)) is expected
    train, evaluate, compare = (say(users, random, fixed) for say in (of_train, of_evaluate, of_compare))
    assert train.startswith("ship the router:") is expected
    assert ("routing pays:" in evaluate) is expected and ("Routing pays:" in compare) is expected
    few = users < FEWEST_USERS and min(random, fixed) > SURE
    for said in (train, evaluate, compare):
        assert ("fewer than 1,000 users cannot tell its gains from luck" in said) is few


def test_no_record_holds_what_follows_from_its_figures() -> None:
    """A stored judgement would be that of an older rule."""
    records = [*RESULTS.glob("*.seed*.json"), *(RESULTS / "routing").glob("*.json")]
    assert len(records) > 300
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert '"pays"' not in text and '"verdict"' not in text, path.name
        assert json.loads(text), path.name
