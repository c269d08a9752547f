"""What the default recipe is held to: the lines that the results table makes of records."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from canet_mobile.run.config import TrainConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/_claims.py, imported with its folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_claims")


def _record(seed: int, ndcg: float, *, width: int = 0, cost: float = 10.0, **routing: object) -> dict:
    """A record with what claims are made of; ``width`` makes it a plain SASRec's."""
    score = {"keep": {"ndcg@10": ndcg, "se_ndcg@10": ndcg / 10}}
    gap = {"keep": {"difference": {"ndcg@10": {"value": 0.004, "se": 0.001}}}}
    evaluation = {"routed": score, "costs": {"paper_mflops": cost, "sasrec_full_paper_mflops": 100.0}}
    evaluation["floors"] = {"markov": {"keep": {"ndcg@10": 0.2}}}
    if not width:
        routes = [("e8_h8_d1", 0.24), ("e16_h16_d2", 0.30)]
        evaluation["routes"] = [
            {"entry": entry, "keep": {"ndcg@10": value}, "paper_mflops": 100 * value}
            for entry, value in routes
        ]
        evaluation["routing"] = {"random": gap}
    config = TrainConfig().to_json() | {"model": "sasrec" if width else "canet", "seen": "keep"}
    config |= {"embedding": [width], "hidden": [width], "depth": [width // 8]}
    return {"seed": seed, "config": config, "evaluation": evaluation, "routing": routing}


def test_claims_compare_seeds_that_both_have(claims: ModuleType) -> None:
    gap, none = {"value": 0.04, "se": 0.01}, {"value": 0.02, "se": 0.01}
    pays = {"fixed": "e8_h8_d1", "users": 5000, "against_random": gap, "against_fixed": gap}
    found = {
        "sasrec-full": [_record(0, 0.40, width=16, cost=100.0), _record(2, 0.9, width=16, cost=100.0)],
        "sasrec-8x1": [_record(1, 0.25, width=8, cost=9.0)],
        "sasrec-8x1-taught": [_record(1, 0.9, width=8, cost=10.0)],
        "canet-paper": [_record(1, 0.15, cost=40.0)],
        "canet": [_record(0, 0.20, advice=pays), _record(1, 0.30, advice={**pays, "against_random": none})],
    }
    cells = claims.claims_row("shop", found).strip("|\n ").split(" | ")
    assert cells == [
        "shop (2)", "0.2500 ± 0.0250", "10%", "0.500", "0.833", "1.200 (8x1)", "2.000 (40%)", "1.25",
        "+0.0040 ± 0.0010", "0.855 (2)", "the router, e8_h8_d1", "0.733, 17%",
    ]  # fmt: skip
    assert [entry for entry, *_ in claims.twins(found)] == ["e16_h16_d2", "e8_h8_d1"]
    assert claims.claims_row("shop", {"sasrec-8x1": found["sasrec-8x1"]}) == ""
    routed = {"seeds": [{"seed": seed, "ndcg10": 0.30, "largest": 0.24} for seed in (0, 1)]}
    routed["random"] = {"value": 0.003, "se_users": 0.0006, "se_seeds": 0.0009}
    other = claims.claims_row("shop", found, routed).strip("|\n ").split(" | ")
    assert {(a, b) for a, b in zip(cells, other, strict=True) if a != b} == {
        ("0.833", "1.250"), ("+0.0040 ± 0.0010", "+0.0030 ± 0.0009"),
    }, "a model beside itself, on all test users"  # fmt: skip
    routed["seeds"].pop()
    assert claims.claims_row("shop", found, routed) == claims.claims_row("shop", found), "of other seeds"
    alone = claims.claims_row("shop", {"canet": [_record(0, 0.2)]})
    assert alone.count("not run") == 4 and alone.endswith(" – | – |\n")


def test_a_budget_has_a_line(claims: ModuleType) -> None:
    gap, none = {"value": 0.04, "se": 0.01}, {"value": 0.02, "se": 0.01}
    advice = {"fixed": "e8_h8_d1", "users": 5000, "against_random": gap, "against_fixed": gap}
    seeds = [
        {"ndcg10": 0.30, "largest": 0.24, "share_of_full": 0.18, "advice": advice},
        {"ndcg10": 0.20, "largest": 0.26, "share_of_full": 0.20, "advice": {**advice, "against_fixed": none}},
    ]
    found = {"seeds": seeds, "random": {"value": 0.003, "se_users": 0.0006, "se_seeds": None}}
    assert claims.budget_row("shop", 0.2, found) == (
        "| shop (2) | 0.2 | 19% | 0.2500 | 1.000 | +0.00300 ± 0.00060 | the router, e8_h8_d1 |\n"
    )


def test_a_part_is_compared_with_the_default_of_its_day(claims: ModuleType) -> None:
    today, alone, closed, own, rows = (_record(0, ndcg) for ndcg in (0.20, 0.18, 0.16, 0.10, 0.05))
    for record in (alone, closed, own):
        del record["config"]["cooccurrence"], record["config"]["polish"]  # older than the keys
    for record in (closed, own):
        record["config"] |= {"residual": 0.1, "beta2": 0.999}
        del record["config"]["residual_power"]
    own["config"]["router_table"] = "own"
    rows["config"]["recipe"] = "rows"
    found = {
        "canet": [today], "canet-selftaught": [alone], "canet-closed": [closed], "canet-own": [own],
        "canet-rows": [rows],
    }  # fmt: skip
    titles = {
        "canet-own": "own table", "canet-selftaught": "alone", "canet-closed": "closed", "canet-rows": "rows",
    }  # fmt: skip
    lines = [
        line.strip("| ").split(" | ")[:5] for line in claims.parts_rows("shop", found, titles).splitlines()
    ]
    assert lines == [
        ["shop (1)", "own table †", "0.1600", "0.1000", "1.600"],
        ["shop (1)", "alone", "0.2000", "0.1800", "1.111"],
        ["shop (1)", "closed ‡", "0.1800", "0.1600", "1.125"],
        ["shop (1)", "rows", "0.2000", "0.0500", "4.000"],
    ]
    assert claims.claims_row("shop", found).startswith("| shop (1) | ")
    assert claims.claims_row("shop", {"canet": [closed]}).startswith("| shop (1) † | ")
    assert claims.claims_row("shop", {"canet-selftaught": [alone]}).startswith("| shop (1) ‡ | 0.1800 ")
    both = {"canet": [today], "canet-polished": [_record(0, 0.25)], "canet-selftaught": [alone]}
    both["canet-polished"][0]["config"]["polish"] = 3
    titles = {"canet-polished": "polished", "canet-selftaught": "alone"}
    lines = [
        line.strip("| ").split(" | ")[1:5] for line in claims.parts_rows("shop", both, titles).splitlines()
    ]
    assert lines == [["polished", "0.2000", "0.2500", "0.800"], ["alone", "0.2000", "0.1800", "1.111"]]
    dearer, dear_part = _record(0, 0.22), _record(0, 0.11)
    dearer["config"]["budget"] = dear_part["config"]["budget"] = 0.3
    dear_part["config"]["polish"] = 3
    dear = {"canet": [today], "canet-dearer": [dearer], "canet-polished": [dear_part]}
    titles = {"canet-polished": "polished", "canet-dearer": "dearer"}
    lines = [
        line.strip("| ").split(" | ")[1:5] for line in claims.parts_rows("shop", dear, titles).splitlines()
    ]
    assert lines == [
        ["polished (both at a budget of 0.3)", "0.2200", "0.1100", "2.000"],
        ["dearer", "0.2000", "0.2200", "0.909"],
    ]
    more = {"canet": [today], "canet-selftaught": [alone, {**alone, "seed": 1}]}
    assert claims.claims_row("shop", more).startswith("| shop (2) ‡ | 0.1800 "), "the seeds count"


def test_what_polishing_gained_is_told_seed_by_seed(claims: ModuleType) -> None:
    gain, loss = {"value": 0.0034, "se": 0.001}, {"value": -0.002, "se": 0.0005}
    records = [
        {**_record(seed, 0.2), "polish": {"users": 2000, "gain": gap, "epochs": epochs, "kept": gap is gain}}
        for seed, gap, epochs in ((0, gain, 3), (1, loss, 1))
    ]
    for record in records:
        record["config"]["polish"] = 3
    assert claims.polish_rows("shop", {"canet-polished": [*records, _record(2, 0.2)]}) == (
        "| shop (2) | 2,000 | +0.0034 ± 0.0010, -0.0020 ± 0.0005 | 3 of 3, 1 of 3 | yes, no |\n"
    )
    assert claims.polish_rows("shop", {"canet-polished": [_record(2, 0.2)]}) == ""


def test_budgets_stand_in_order_beside_the_default(
    claims: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = importlib.import_module("results_table")
    monkeypatch.setattr(table, "HERE", tmp_path)
    folder = tmp_path / "results" / "routing"
    folder.mkdir(parents=True)
    gap = {"value": 0.004, "se": 0.001}
    advice = {"fixed": "e8_h8_d1", "users": 5000, "against_random": gap, "against_fixed": gap}
    seed = {"ndcg10": 0.3, "largest": 0.3, "share_of_full": 0.2, "advice": advice}
    found = {"seeds": [seed], "random": {"value": 0.003, "se_users": 0.0006, "se_seeds": None}}
    (folder / "shop.json").write_text(json.dumps(found), encoding="utf-8")
    assert table.budget_rows("shop") == "", "the default alone"
    for budget in (0.9, 0.05):
        (folder / f"shop.budget{budget}.json").write_text(json.dumps(found), encoding="utf-8")
    lines = [line.split(" | ")[1] for line in table.budget_rows("shop").splitlines()]
    assert lines == ["0.05", f"{TrainConfig().budget:g}", "0.9"]
