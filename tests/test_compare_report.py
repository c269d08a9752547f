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
from canet_mobile.run.config import TrainConfig
from canet_mobile.schema import validate


@pytest.fixture(scope="module")
def document(compared: Path) -> dict:
    return json.loads((compared / "compare.json").read_text(encoding="utf-8"))


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
        assert "the tensors do not fit" in (compared / f"compare.{kind}").read_text(encoding="utf-8")
    (log,) = (compared / "runs").glob("gru4rec.seed0.*/failed.txt")
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_every_figure_of_the_table_is_the_mean_of_its_records(document: dict, compared: Path) -> None:
    protocol = document["protocol"]
    shown = {cells[0]: cells for cells in main_table(document).rows}
    for name, row in rows(document).items():
        if row["metrics"] is None:
            continue
        records = [
            json.loads((compared / "records" / f"small.{name}.seed{n}.json").read_text(encoding="utf-8"))
            for n in (0, 1)
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
        evaluation = json.loads(path.read_text(encoding="utf-8"))["evaluation"]
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
    page = (compared / "compare.html").read_text(encoding="utf-8")
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
    assert (compared / "compare.md").read_text(encoding="utf-8") == markdown(document)
    lines = list(csv.DictReader((compared / "compare.csv").open(encoding="utf-8")))
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


def test_the_manual_names_every_method_and_what_each_preset_changes() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    for name in (*known_methods(TrainConfig(), 100), *GROUPS):
        assert f"`{name}`" in manual
    for name, preset in PRESETS.items():
        changes = ", ".join(f"`{k} = {json.dumps(v)}`" for k, v in preset.changes.items()) or "nothing"
        users = "all" if preset.limit is None else f"{preset.limit:,}"
        assert f"| `{name}` | {changes} | {users} |" in manual
