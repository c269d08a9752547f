"""The document of a comparison, the files made from it, and the repository's own results."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from compare_toys import rows

from canet_mobile.compare.comparison import failed
from canet_mobile.compare.formats import markdown
from canet_mobile.compare.methods import GROUPS, known_methods
from canet_mobile.compare.presets import PRESETS
from canet_mobile.compare.svg import Box, Scale, place_label
from canet_mobile.compare.tables import figure, main_table, point_table
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import PROTOCOLS
from canet_mobile.model.points import POINTS
from canet_mobile.schema import validate
from canet_mobile.train.config import TrainConfig


@pytest.fixture(scope="module")
def document(compared: Path) -> dict:
    return json.loads((compared / "compare.json").read_text())


def test_the_document_is_of_its_schema_and_holds_every_method(document: dict) -> None:
    validate(document, "comparison", where="compare.json")
    assert list(rows(document)) == [
        "fpmc", "gru4rec", "sasrec-full", "sasrec-small", "canet-paper", "canet", "canet-u", "canet-g",
        "canet-ug", "canet-depth", "canet-embedding", "sasrec-8x1",
    ]  # fmt: skip


def test_a_failing_method_is_reported_and_the_others_go_on(document: dict, compared: Path) -> None:
    row = rows(document)["gru4rec"]
    assert row["status"] == "failed" and row["metrics"] is None and failed(document)
    assert row["failures"][0] == {"seed": 0, "reason": "RuntimeError: the tensors do not fit"}
    assert all(other["status"] == "ok" for name, other in rows(document).items() if name != "gru4rec")
    for kind in ("md", "csv", "html"):
        assert "the tensors do not fit" in (compared / f"compare.{kind}").read_text()
    (log,) = (compared / "runs").glob("gru4rec.seed0.*/failed.txt")
    assert "Traceback" in log.read_text()


def test_every_figure_of_the_table_is_the_mean_of_its_records(document: dict, compared: Path) -> None:
    protocol = document["protocol"]
    shown = {cells[0]: cells for cells in main_table(document).rows}
    for name, row in rows(document).items():
        if row["metrics"] is None:
            continue
        records = [
            json.loads((compared / "records" / f"small.{name}.seed{n}.json").read_text()) for n in (0, 1)
        ]
        for metric in ("ndcg@10", "recall@10"):
            values = [record["evaluation"]["routed"][protocol][metric] for record in records]
            assert row["metrics"][protocol][metric]["mean"] == pytest.approx(np.mean(values))
            error = np.std(values, ddof=1) / np.sqrt(2)
            column = 1 if metric == "ndcg@10" else 2
            assert shown[row["title"]][column] == f"{np.mean(values):.4f} ± {error:.4f}"
        costs = [record["evaluation"]["costs"]["paper_mflops"] for record in records]
        assert row["paper_mflops"]["mean"] == pytest.approx(np.mean(costs))


def test_the_values_kept_per_user_are_those_of_the_evaluation(document: dict, compared: Path) -> None:
    for path in (compared / "runs").glob("*/record.json"):
        evaluation = json.loads(path.read_text())["evaluation"]
        with np.load(path.parent / "users.npz") as users:
            for protocol in ("keep", "exclude"):
                own = ndcg(users[protocol].astype(np.int64), 10).mean()
                assert own == pytest.approx(evaluation["routed"][protocol]["ndcg@10"])
            if evaluation["routing"] is not None:
                histogram = evaluation["routing"]["histogram"]
                assert np.bincount(users["route"], minlength=len(histogram)).tolist() == histogram
                for name, protocol in itertools.product(("random", "best_fixed"), ("keep", "exclude")):
                    gain, told = users[f"over_{name}_{protocol}"], evaluation["routing"][name][protocol]
                    error = gain.std(ddof=1) / len(gain) ** 0.5
                    assert told["difference"]["ndcg@10"] == pytest.approx(
                        {"value": gain.mean(), "se": error}, abs=1e-6
                    )


def test_the_error_over_users_is_that_of_each_ones_mean_over_seeds(document: dict, compared: Path) -> None:
    row = rows(document)["canet-paper"]
    for name, protocol in itertools.product(("random", "best_fixed"), ("keep", "exclude")):
        gains = []
        for run in row["runs"]:
            with np.load(compared / "runs" / run["directory"] / "users.npz") as users:
                gains.append(users[f"over_{name}_{protocol}"].astype(np.float64))
        difference = row["routing"][name][protocol]["difference"]
        each = np.mean(gains, axis=0)
        assert difference["mean"] == pytest.approx(each.mean(), abs=1e-6)
        assert difference["se_users"] == pytest.approx(each.std(ddof=1) / len(each) ** 0.5, abs=1e-6)
        assert difference["se_users"] > 0


def test_pairs_are_the_differences_of_the_means(document: dict) -> None:
    means = {name: floor[document["protocol"]]["ndcg@10"] for name, floor in document["floors"].items()}
    for name, row in rows(document).items():
        if row["metrics"] is not None:
            means[name] = row["metrics"][document["protocol"]]["ndcg@10"]["mean"]
    assert len(document["pairs"]) == len(means) * (len(means) - 1) / 2
    for pair in document["pairs"]:
        assert pair["difference"] == pytest.approx(means[pair["first"]] - means[pair["second"]], abs=1e-9)
        assert pair["low"] <= pair["difference"] <= pair["high"] and pair["n"] == 80


def test_route_use_and_twins(document: dict) -> None:
    for name in ("canet-paper", "canet"):
        routing = rows(document)[name]["routing"]
        for kind in ("all", "tail"):
            assert sum(route[kind] for route in routing["use"]) == pytest.approx(1)
        assert routing["random"] is not None and routing["best_fixed"] is not None
        assert [point["name"] for point in routing["points"]] == list(POINTS)
        balanced = routing["points"][POINTS.index("balanced")]
        assert balanced["paper_mflops"] == rows(document)[name]["paper_mflops"]
        for protocol in PROTOCOLS:
            assert balanced[protocol]["ndcg@10"] == rows(document)[name]["metrics"][protocol]["ndcg@10"]
    saver, _, best = rows(document)["canet"]["routing"]["points"]
    assert saver["paper_mflops"]["mean"] <= best["paper_mflops"]["mean"]
    shown = {row[0]: row[1:] for row in point_table(document).rows}
    title, protocol = rows(document)["canet"]["title"], document["protocol"]
    assert shown[f"{title}, best"][0] == figure(best[protocol]["ndcg@10"])
    assert {(twin["name"], twin["entry"]) for twin in document["twins"]} >= {
        ("canet", "e16_h16_d2"), ("canet", "e8_h8_d1"), ("canet-paper", "e16_h16_d2"),
    }  # fmt: skip


def test_the_page_is_well_formed_and_holds_every_method(document: dict, compared: Path) -> None:
    page = (compared / "compare.html").read_text()
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    text = " ".join(root.itertext())
    for row in document["methods"]:
        assert row["title"] in text
    svgs = list(root.iter("{http://www.w3.org/1999/xhtml}svg"))
    assert len(svgs) >= 5
    for svg in svgs:
        assert svg.get("role") == "img" and svg[0].text and svg[1].text, (
            "read out as its title and description"
        )
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org/1999/xhtml", "")
    assert "prefers-color-scheme: dark" in page


def test_markdown_and_csv_hold_the_same_figures(document: dict, compared: Path) -> None:
    assert (compared / "compare.md").read_text() == markdown(document)
    lines = list(csv.DictReader((compared / "compare.csv").open()))
    assert len(lines) == 2 * (2 + len(document["methods"]))
    for line in lines:
        if line["group"] != "floor" and line["status"] == "ok":
            found = rows(document)[line["method"]]["metrics"][line["protocol"]]["ndcg@10"]["mean"]
            assert float(line["ndcg@10"]) == found


def test_labels_keep_apart_while_there_is_room() -> None:
    taken: list[Box] = []
    for _ in range(6):
        place_label(300, 100, "SASRec-full", taken, 760)
    assert not any(a.meets(b) for n, a in enumerate(taken) for b in taken[:n])


def test_scales_and_their_ticks() -> None:
    scale = Scale(0.2, 1.0, 0, 100)
    assert scale(0.2) == 0 and scale(1.0) == 100
    assert scale.ticks() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(3, 200, 0, 1, log=True).ticks() == pytest.approx([5, 10, 20, 50, 100, 200])


def test_the_results_table_reads_the_records_of_a_comparison(
    document: dict, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "results_table.py"
    spec = importlib.util.spec_from_file_location("results_table", script)
    assert spec is not None and spec.loader is not None
    monkeypatch.syspath_prepend(str(script.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(compared / "records", tmp_path / "results")
    monkeypatch.setattr(module, "HERE", tmp_path)
    planned = {"methods": ["gru4rec", "canet", "fpmc"], "seeds": 3}
    monkeypatch.setattr(module, "EXPERIMENTS", {"small": planned})
    text = module.section("small", module.records("small"))
    for name, title in {
        "fpmc": "FPMC",
        "canet": "**CANet, default recipe, routed**",
        "canet-u": "CANet-u",
    }.items():
        found = rows(document)[name]["metrics"]["keep"]["ndcg@10"]
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
        assert f"{found['mean']:.4f} ± {found['se']:.4f}" in line
    assert "Not run: gru4rec, canet (1 of 3 seeds left), fpmc (1 of 3 seeds left)." in text
    largest = rows(document)["canet"]["routing"]["largest_share"]["mean"]
    first, line, *_ = (
        line for line in text.splitlines() if line.startswith("| **CANet, default recipe, routed** |")
    )
    assert first != line
    assert f"| {largest:.2f} ± " in line
    assert all(f"\n| {point} | " in text for point in ("saver", "balanced", "best"))
    twin = next(pair for pair in document["twins"] if pair["name"] == "canet")
    lines = [line for line in text.splitlines() if line.startswith(f"| {twin['entry']} |")]
    assert any(line.endswith(f" {twin['ratio']:.3f} |") for line in lines)
    cards = {"fpmc": "Card", "canet": None, "gru4rec": "Card"}
    found = {name: [{"machine": {"gpu": card}}, {"machine": {}}] for name, card in cards.items()}
    assert module.on_gpus(found) == "\nOn Card: fpmc, gru4rec.\n"
    for residual, mark in ((0.1, " †"), (1.0, "")):
        config = {"model": "sasrec", "hidden": [64], "depth": [4], "residual": residual}
        assert module.title("sasrec-64x4", {"config": config}) == f"SASRec 64 × 4{mark}"


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


def test_claims_compare_seeds_that_both_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from _claims import claims_row, twins

    gap, none = {"value": 0.04, "se": 0.01}, {"value": 0.02, "se": 0.01}
    pays = {"fixed": "e8_h8_d1", "users": 5000, "against_random": gap, "against_fixed": gap}
    found = {
        "sasrec-full": [_record(0, 0.40, width=16, cost=100.0), _record(2, 0.9, width=16, cost=100.0)],
        "sasrec-8x1": [_record(1, 0.25, width=8, cost=9.0)],
        "sasrec-8x1-taught": [_record(1, 0.9, width=8, cost=10.0)],
        "canet-paper": [_record(1, 0.15, cost=40.0)],
        "canet": [_record(0, 0.20, advice=pays), _record(1, 0.30, advice={**pays, "against_random": none})],
    }
    cells = claims_row("shop", found).strip("|\n ").split(" | ")
    assert cells == [
        "shop (2)", "0.2500 ± 0.0250", "10%", "0.500", "0.833", "1.200 (8x1)", "2.000 (40%)", "1.25",
        "+0.0040 ± 0.0010", "0.855 (2)", "the router, e8_h8_d1", "0.733, 17%",
    ]  # fmt: skip
    assert [entry for entry, *_ in twins(found)] == ["e16_h16_d2", "e8_h8_d1"]
    assert claims_row("shop", {"sasrec-8x1": found["sasrec-8x1"]}) == ""
    routed = {"seeds": [{"seed": seed, "ndcg10": 0.30, "largest": 0.24} for seed in (0, 1)]}
    routed["random"] = {"value": 0.003, "se_users": 0.0006, "se_seeds": 0.0009}
    other = claims_row("shop", found, routed).strip("|\n ").split(" | ")
    assert {(a, b) for a, b in zip(cells, other, strict=True) if a != b} == {
        ("0.833", "1.250"), ("+0.0040 ± 0.0010", "+0.0030 ± 0.0009"),
    }, "a model beside itself, on all test users"  # fmt: skip
    routed["seeds"].pop()
    assert claims_row("shop", found, routed) == claims_row("shop", found), "of other seeds"
    alone = claims_row("shop", {"canet": [_record(0, 0.2)]})
    assert alone.count("not run") == 4 and alone.endswith(" – | – |\n")


def test_a_budget_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from _claims import budget_row

    gap, none = {"value": 0.04, "se": 0.01}, {"value": 0.02, "se": 0.01}
    advice = {"fixed": "e8_h8_d1", "users": 5000, "against_random": gap, "against_fixed": gap}
    seeds = [
        {"ndcg10": 0.30, "largest": 0.24, "share_of_full": 0.18, "advice": advice},
        {"ndcg10": 0.20, "largest": 0.26, "share_of_full": 0.20, "advice": {**advice, "against_fixed": none}},
    ]
    found = {"seeds": seeds, "random": {"value": 0.003, "se_users": 0.0006, "se_seeds": None}}
    assert budget_row("shop", 0.2, found) == (
        "| shop (2) | 0.2 | 19% | 0.2500 | 1.000 | +0.00300 ± 0.00060 | the router, e8_h8_d1 |\n"
    )


def test_a_part_is_compared_with_the_default_of_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from _claims import claims_row, parts_rows

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
    lines = [line.strip("| ").split(" | ")[:5] for line in parts_rows("shop", found, titles).splitlines()]
    assert lines == [
        ["shop (1)", "own table †", "0.1600", "0.1000", "1.600"],
        ["shop (1)", "alone", "0.2000", "0.1800", "1.111"],
        ["shop (1)", "closed ‡", "0.1800", "0.1600", "1.125"],
        ["shop (1)", "rows", "0.2000", "0.0500", "4.000"],
    ]
    assert claims_row("shop", found).startswith("| shop (1) | ")
    assert claims_row("shop", {"canet": [closed]}).startswith("| shop (1) † | ")
    assert claims_row("shop", {"canet-selftaught": [alone]}).startswith("| shop (1) ‡ | 0.1800 ")
    both = {"canet": [today], "canet-polished": [_record(0, 0.25)], "canet-selftaught": [alone]}
    both["canet-polished"][0]["config"]["polish"] = 3
    titles = {"canet-polished": "polished", "canet-selftaught": "alone"}
    lines = [line.strip("| ").split(" | ")[1:5] for line in parts_rows("shop", both, titles).splitlines()]
    assert lines == [["polished", "0.2000", "0.2500", "0.800"], ["alone", "0.2000", "0.1800", "1.111"]]
    dearer, dear_part = _record(0, 0.22), _record(0, 0.11)
    dearer["config"]["budget"] = dear_part["config"]["budget"] = 0.3
    dear_part["config"]["polish"] = 3
    dear = {"canet": [today], "canet-dearer": [dearer], "canet-polished": [dear_part]}
    titles = {"canet-polished": "polished", "canet-dearer": "dearer"}
    lines = [line.strip("| ").split(" | ")[1:5] for line in parts_rows("shop", dear, titles).splitlines()]
    assert lines == [
        ["polished (both at a budget of 0.3)", "0.2200", "0.1100", "2.000"],
        ["dearer", "0.2000", "0.2200", "0.909"],
    ]
    more = {"canet": [today], "canet-selftaught": [alone, {**alone, "seed": 1}]}
    assert claims_row("shop", more).startswith("| shop (2) ‡ | 0.1800 "), "the seeds count"


def test_what_polishing_gained_is_told_seed_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from _claims import polish_rows

    gain, loss = {"value": 0.0034, "se": 0.001}, {"value": -0.002, "se": 0.0005}
    records = [
        {**_record(seed, 0.2), "polish": {"users": 2000, "gain": gap, "epochs": epochs, "kept": gap is gain}}
        for seed, gap, epochs in ((0, gain, 3), (1, loss, 1))
    ]
    for record in records:
        record["config"]["polish"] = 3
    assert polish_rows("shop", {"canet-polished": [*records, _record(2, 0.2)]}) == (
        "| shop (2) | 2,000 | +0.0034 ± 0.0010, -0.0020 ± 0.0005 | 3 of 3, 1 of 3 | yes, no |\n"
    )
    assert polish_rows("shop", {"canet-polished": [_record(2, 0.2)]}) == ""


def test_the_manual_names_every_method_and_what_each_preset_changes() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "compare.md").read_text()
    for name in (*known_methods(TrainConfig(), 100), *GROUPS):
        assert f"`{name}`" in manual
    for name, preset in PRESETS.items():
        changes = ", ".join(f"`{k} = {json.dumps(v)}`" for k, v in preset.changes.items()) or "nothing"
        users = "all" if preset.limit is None else f"{preset.limit:,}"
        assert f"| `{name}` | {changes} | {users} |" in manual
