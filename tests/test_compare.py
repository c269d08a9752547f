"""The comparison: its cache, what survives a kill, its statistics, and the files it writes."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import make_dataset

from canet_mobile.cli.main import run as cli
from canet_mobile.compare import runs
from canet_mobile.compare.comparison import Plan, compare, failed
from canet_mobile.compare.methods import (
    GROUPS,
    PRESETS,
    base_config,
    known_methods,
    method_config,
    select,
    typed_settings,
)
from canet_mobile.compare.statistics import differs, over_seeds, paired_bootstrap
from canet_mobile.compare.svg import Box, Scale, place_label
from canet_mobile.compare.tables import figure, main_table, markdown, point_table
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.evaluate.costs import sasrec_paper_mflops
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.record import converged
from canet_mobile.evaluate.scoring import PROTOCOLS
from canet_mobile.model.points import POINTS
from canet_mobile.schema import validate
from canet_mobile.train import trainer
from canet_mobile.train.config import TrainConfig

TINY = {
    "embedding": [8, 16], "hidden": [8, 16], "depth": [1, 2], "length": 6, "epochs": 1, "guide_k": 3,
    "threads": 1, "batch": 64, "validation_users": 30,
}  # fmt: skip
TINY_SET = [f"--set={key}={','.join(map(str, v)) if isinstance(v, list) else v}" for key, v in TINY.items()]


def plan(*models: str, seeds: int = 1, **changes: object) -> Plan:
    return Plan(models, seeds, "quick", TINY | changes)


def quiet(text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "small", users=80)


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two seeds, with a failing method."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train", _failing("gru4rec"))
        names = ("gru4rec", "fpmc", "sasrec-full", "sasrec-small", "canet-paper", "canet", "losses", "spaces")
        compare(data, plan(*names, "sasrec-8x1", seeds=2), out, force=False, say=quiet)
    return out


@pytest.fixture(scope="module")
def document(folder: Path) -> dict:
    return json.loads((folder / "compare.json").read_text())


_train = trainer.train


def _failing(model: str):
    def train(config: TrainConfig, *arguments: object, **options: object) -> object:
        if config.model == model:
            raise RuntimeError("the tensors do not fit")
        return _train(config, *arguments, **options)

    return train


def rows(document: dict) -> dict[str, dict]:
    return {row["name"]: row for row in document["methods"]}


# --- methods ---------------------------------------------------------------------------------------------


def test_sasrec_same_is_as_large_as_canet_turned_out_to_be(data: Dataset, tmp_path: Path) -> None:
    found = rows(compare(data, plan("sasrec-same", "canet"), tmp_path / "out", force=False, say=quiet))
    own, wanted = (found[name]["paper_mflops"]["mean"] for name in ("sasrec-same", "canet"))
    sizes = [sasrec_paper_mflops(data.num_items, 6, width, depth) for width in (8, 16) for depth in (1, 2)]
    assert own == min(sizes, key=lambda cost: abs(cost - wanted))
    twice = compare(
        data, plan("sasrec-16x2", "sasrec-same", "canet"), tmp_path / "out", force=False, say=quiet
    )
    assert list(rows(twice)) == ["canet", "sasrec-16x2"], "no size twice"


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.7])
def test_sasrec_small_costs_about_what_canet_may_spend(budget: float) -> None:
    base = base_config("default", {"budget": budget})
    small = method_config(known_methods(base, 3457)["sasrec-small"], base, 0)
    cost = sasrec_paper_mflops(3457, base.length, small.hidden[0], small.depth[0])
    assert cost == pytest.approx(budget * sasrec_paper_mflops(3457, base.length), rel=0.3)


def test_every_method_has_a_configuration_under_every_preset() -> None:
    for preset in PRESETS:
        base = base_config(preset, {"tied": True})
        for method in known_methods(base, 100).values():
            config = method_config(method, base, 3)
            assert config.seed == 3 and config.epochs == base.epochs


def test_groups_and_sizes_select_each_method_once_in_table_order() -> None:
    names = [m.name for m in select(["sasrec-16x3", "losses", "canet-u", "canet", "fpmc"], TrainConfig(), 50)]
    assert names == ["fpmc", "canet", "canet-u", "canet-g", "canet-ug", "sasrec-16x3"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select(["canet-papr"], TrainConfig(), 50), "did you mean 'canet-paper'"),
        (lambda: select(["sasrec-same"], TrainConfig(), 50), "add canet"),
        (lambda: base_config("qick", {}), "did you mean 'quick'"),
        (lambda: typed_settings(["lrr=1"]), "did you mean 'lr'"),
        (lambda: typed_settings(["model=sasrec"]), "--models"),
        (lambda: typed_settings(["seed=4"]), "--seeds"),
    ],
)
def test_wrong_names_are_refused_with_the_right_one(call, message: str) -> None:
    with pytest.raises(UsageError) as error:
        call()
    assert message in str(error.value)


# --- statistics ------------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_the_normal_interval_and_is_paired() -> None:
    generator = np.random.default_rng(0)
    ability = generator.random(4000)
    first = ability + 0.02 + generator.normal(0, 0.05, 4000).round(3)
    found = paired_bootstrap(first, ability)
    gap = first - ability
    half = 1.96 * gap.std(ddof=1) / np.sqrt(4000)
    assert found["difference"] == pytest.approx(gap.mean()) and found["n"] == 4000
    assert (found["low"], found["high"]) == pytest.approx(
        (gap.mean() - half, gap.mean() + half), abs=half * 0.1
    )
    assert differs(found), "unpaired, the spread of ability would hide it"
    assert paired_bootstrap(first, ability) == found


def test_the_bootstrap_of_equals_is_zero() -> None:
    values = np.array([0.0, 1.0, 0.5])
    found = paired_bootstrap(values, values)
    assert found == {"difference": 0, "low": 0, "high": 0, "n": 3} and not differs(found)


def test_one_seed_tells_nothing_about_seeds() -> None:
    assert over_seeds([0.5])["se"] is None
    found = over_seeds([0.4, 0.6])
    assert (found["mean"], found["se"]) == pytest.approx((0.5, 0.1)) and found["values"] == [0.4, 0.6]


@pytest.mark.parametrize(
    ("stopped_by", "best", "is_converged"),
    [("patience", 1, True), ("epochs", 4, False), ("epochs", 2, True), ("max_minutes", 2, False)],
)
def test_a_run_that_was_still_improving_is_cut(stopped_by: str, best: int, is_converged: bool) -> None:
    assert converged({"stopped_by": stopped_by, "best_epoch": best, "epochs": 5}) is is_converged


# --- the document and its files --------------------------------------------------------------------------


def test_the_document_is_of_its_schema_and_holds_every_method(document: dict) -> None:
    validate(document, "comparison", where="compare.json")
    assert list(rows(document)) == [
        "fpmc", "gru4rec", "sasrec-full", "sasrec-small", "canet-paper", "canet", "canet-u", "canet-g",
        "canet-ug", "canet-depth", "canet-embedding", "sasrec-8x1",
    ]  # fmt: skip


def test_a_failing_method_is_reported_and_the_others_go_on(document: dict, folder: Path) -> None:
    row = rows(document)["gru4rec"]
    assert row["status"] == "failed" and row["metrics"] is None and failed(document)
    assert row["failures"][0] == {"seed": 0, "reason": "RuntimeError: the tensors do not fit"}
    assert all(other["status"] == "ok" for name, other in rows(document).items() if name != "gru4rec")
    for kind in ("md", "csv", "html"):
        assert "the tensors do not fit" in (folder / f"compare.{kind}").read_text()
    (log,) = (folder / "runs").glob("gru4rec.seed0.*/failed.txt")
    assert "Traceback" in log.read_text()


def test_every_figure_of_the_table_is_the_mean_of_its_records(document: dict, folder: Path) -> None:
    protocol = document["protocol"]
    shown = {cells[0]: cells for cells in main_table(document).rows}
    for name, row in rows(document).items():
        if row["metrics"] is None:
            continue
        records = [
            json.loads((folder / "records" / f"small.{name}.seed{n}.json").read_text()) for n in (0, 1)
        ]
        for metric in ("ndcg@10", "recall@10"):
            values = [record["evaluation"]["routed"][protocol][metric] for record in records]
            assert row["metrics"][protocol][metric]["mean"] == pytest.approx(np.mean(values))
            error = np.std(values, ddof=1) / np.sqrt(2)
            column = 1 if metric == "ndcg@10" else 2
            assert shown[row["title"]][column] == f"{np.mean(values):.4f} ± {error:.4f}"
        costs = [record["evaluation"]["costs"]["paper_mflops"] for record in records]
        assert row["paper_mflops"]["mean"] == pytest.approx(np.mean(costs))


def test_the_values_kept_per_user_are_those_of_the_evaluation(document: dict, folder: Path) -> None:
    for path in (folder / "runs").glob("*/record.json"):
        evaluation = json.loads(path.read_text())["evaluation"]
        with np.load(path.parent / "users.npz") as users:
            for protocol in ("keep", "exclude"):
                own = ndcg(users[protocol].astype(np.int64), 10).mean()
                assert own == pytest.approx(evaluation["routed"][protocol]["ndcg@10"])
            if evaluation["routing"] is not None:
                histogram = evaluation["routing"]["histogram"]
                assert np.bincount(users["route"], minlength=len(histogram)).tolist() == histogram


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


def test_the_page_is_well_formed_and_holds_every_method(document: dict, folder: Path) -> None:
    page = (folder / "compare.html").read_text()
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


def test_markdown_and_csv_hold_the_same_figures(document: dict, folder: Path) -> None:
    assert (folder / "compare.md").read_text() == markdown(document)
    lines = list(csv.DictReader((folder / "compare.csv").open()))
    assert len(lines) == 2 * (2 + len(document["methods"]))
    for line in lines:
        if line["group"] != "floor" and line["status"] == "ok":
            found = rows(document)[line["method"]]["metrics"][line["protocol"]]["ndcg@10"]["mean"]
            assert float(line["ndcg@10"]) == found


# --- the cache -------------------------------------------------------------------------------------------


def test_nothing_that_is_cached_is_computed_again(
    data: Dataset, folder: Path, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(trainer, "train", never)
    monkeypatch.setattr(runs, "judge", never)
    names = ("fpmc", "sasrec-full", "canet")
    again = compare(data, plan(*names, seeds=2), copy, force=False, say=quiet)
    for name in names:
        assert rows(again)[name] == rows(document)[name]
    changed = compare(data, plan(*names, seeds=2, lr=0.01), copy, force=False, say=quiet)
    assert failed(changed), "another configuration is another run"


def test_other_threads_are_the_same_run_and_other_users_only_another_judgement(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(limit: int | None = None, **changes: object) -> runs.Job:
        config = base_config("quick", TINY | {"model": "fpmc"} | changes)
        return runs.Job("fpmc", config, data.directory, data.content_hash, limit, tmp_path)

    runs.run_job(job(), quiet)
    assert job(threads=2).cached() == job().cached() is not None
    assert job(lr=0.5).cached() is None and job(limit=20).cached() is None
    monkeypatch.setattr(trainer, "train", None)
    runs.run_job(job(limit=20), quiet)
    assert job(limit=20).cached()["evaluation"]["users"] == 20


def test_an_interrupted_comparison_goes_on(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def counting(config: TrainConfig, *arguments: object, **options: object) -> object:
        trained.append(config.model)
        if config.model == "sasrec" and len(trained) == 2:
            raise trainer.Interrupted("stopped")
        return _train(config, *arguments, **options)

    monkeypatch.setattr(trainer, "train", counting)
    out = tmp_path / "out"
    with pytest.raises(trainer.Interrupted, match="finished so far is kept"):
        compare(data, plan("fpmc", "sasrec-8x1"), out, force=False, say=quiet)
    assert not (out / "compare.json").exists()
    document = compare(data, plan("fpmc", "sasrec-8x1"), out, force=False, say=quiet)
    assert trained == ["fpmc", "sasrec", "sasrec"] and not failed(document)


def test_a_killed_comparison_with_workers_goes_on_to_the_result_of_a_whole_one(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "small", users=200)
    more = {"epochs": 12, "patience": 30}
    command = [sys.executable, "-m", "canet_mobile", "compare", "--data", "small", "--out", "killed"]
    command += ["--jobs=2", "--seeds=1", "--models=fpmc,sasrec-8x2", "--preset=quick", *TINY_SET]
    command += [f"--set={key}={value}" for key, value in more.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/runs/*/run/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "compare.json").exists()
    assert process.stderr is not None
    process.stderr.read()  # the workers hold its other end: it closes when they have gone
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    killed = json.loads((tmp_path / "killed" / "compare.json").read_text())
    whole = compare(data, plan("fpmc", "sasrec-8x2", **more), tmp_path / "whole", force=False, say=quiet)
    for document in (killed, whole):
        assert not failed(document)
        assert all(run.pop("training_seconds") >= 0 for row in document["methods"] for run in row["runs"])
    assert killed == json.loads(json.dumps(whole))


# --- folders and the command -----------------------------------------------------------------------------


def test_folders_of_others_are_refused(data: Dataset, folder: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", users=20, seed=5)
    with pytest.raises(CanetError, match="comparison on another data set") as error:
        compare(other, plan("fpmc"), folder, force=False, say=quiet)
    assert "--force" in str(error.value)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(CanetError, match=r"already exists|not an artefact"):
            compare(data, plan("fpmc"), mine, force=force, say=quiet)
    out = tmp_path / "out"
    compare(other, plan("fpmc"), out, force=False, say=quiet)
    document = compare(data, plan("fpmc"), out, force=True, say=quiet)
    assert document["dataset"]["content_hash"] == data.content_hash


def test_the_command_prints_its_results_and_its_exit_code(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "compare",
        "--data",
        str(data.directory),
        "--models",
        "fpmc,sasrec-8x1",
        "--seeds",
        "1",
        *TINY_SET,
    ]
    assert cli([*arguments, "--json", "--budget", "0.2"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(
        (tmp_path / "compare" / "small" / "compare.json").read_text()
    )
    assert json.loads(printed.out)["budget"] == 0.2 and "2 of 2 runs" in printed.err
    monkeypatch.setattr(trainer, "train", _failing("fpmc"))
    assert cli([*arguments, "--set=lr=0.02"]) == 1
    assert "the tensors do not fit" in capsys.readouterr().out
    assert cli(["compare", "--models", "nonsense", "--data", str(data.directory)]) == 2


# --- drawing ---------------------------------------------------------------------------------------------


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


# --- the repository's results ----------------------------------------------------------------------------


def test_the_results_table_reads_the_records_of_a_comparison(
    document: dict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "results_table.py"
    spec = importlib.util.spec_from_file_location("results_table", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(folder / "records", tmp_path / "results")
    monkeypatch.setattr(module, "HERE", tmp_path)
    planned = {"methods": ["gru4rec", "canet", "fpmc"], "seeds": 3}
    monkeypatch.setattr(module, "EXPERIMENTS", {"small": planned})
    text = module.section("small")
    for name, title in {
        "fpmc": "FPMC",
        "canet": "**CANet, default recipe, routed**",
        "canet-u": "CANet-u",
    }.items():
        found = rows(document)[name]["metrics"]["keep"]["ndcg@10"]
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
        assert f"{found['mean']:.4f} ± {found['se']:.4f}" in line
    short = module.short("small")
    assert "SASRec-full (16 × 2)" in short and "FPMC" in short
    assert "SASRec 8 × 1" in text and "SASRec 8 × 1" not in short, (
        "the README's lines are the paper's methods"
    )
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


def test_the_manual_names_every_method_and_what_each_preset_changes() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "compare.md").read_text()
    for name in (*known_methods(TrainConfig(), 100), *GROUPS):
        assert f"`{name}`" in manual
    for name, preset in PRESETS.items():
        changes = ", ".join(f"`{key} = {value}`" for key, value in preset.changes.items()) or "nothing"
        users = "all" if preset.limit is None else f"{preset.limit:,}"
        assert f"| `{name}` | {changes} | {users} |" in manual
