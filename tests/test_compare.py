"""The comparison: its methods, its compared and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare_toys import TINY_SET, failing, plan, quiet, rows
from conftest import make_dataset

from canet_mobile.cli.main import run as cli
from canet_mobile.compare import comparison
from canet_mobile.compare.comparison import compare
from canet_mobile.compare.methods import (
    is_plain_sasrec,
    known_methods,
    method_config,
    select,
)
from canet_mobile.compare.presets import PRESETS, base_config, typed_settings
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import read_json
from canet_mobile.model.costs import sasrec_paper_mflops
from canet_mobile.run.config import SASREC_RECIPES, TrainConfig
from canet_mobile.train import trainer


@pytest.fixture(scope="module")
def document(compared: Path) -> dict:
    return json.loads((compared / "compare.json").read_text(encoding="utf-8"))


def test_sasrec_same_is_as_large_as_canet_turned_out_to_be(compared_data: Dataset, tmp_path: Path) -> None:
    found = rows(
        compare(compared_data, plan("sasrec-same", "canet"), tmp_path / "out", force=False, say=quiet)
    )
    own, wanted = (found[name]["paper_mflops"]["mean"] for name in ("sasrec-same", "canet"))
    sizes = [
        sasrec_paper_mflops(compared_data.num_items, 6, width, depth) for width in (8, 16) for depth in (1, 2)
    ]
    assert own == min(sizes, key=lambda cost: abs(cost - wanted))
    twice = compare(
        compared_data, plan("sasrec-16x2", "sasrec-same", "canet"), tmp_path / "out", force=False, say=quiet
    )
    assert list(rows(twice)) == ["canet", "sasrec-16x2"], "no size twice"
    names = plan("sasrec-16x2-taught", "sasrec-same", "canet")
    taught = compare(compared_data, names, tmp_path / "out", force=False, say=quiet)
    assert list(rows(taught)) == ["sasrec-same", "canet", "sasrec-16x2-taught"], "a taught one is another"
    assert {twin["twin"] for twin in taught["twins"]} == {"sasrec-same"}
    assert {pair["sasrec"] for pair in taught["same_cost"]} == {"sasrec-same"}


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


@pytest.mark.parametrize("recipe", SASREC_RECIPES)
def test_a_sasrec_of_any_size_has_other_recipes(recipe: str) -> None:
    plain, other = select(["sasrec-16x3", f"sasrec-16x3-{recipe}"], TrainConfig(), 50)
    assert {**plain.pins, "recipe": recipe} == other.pins
    assert method_config(other, TrainConfig(), 0).recipe == recipe
    assert other.title == f"SASRec 16 × 3, {recipe}" and "average" in other.about
    assert is_plain_sasrec(plain.name) and not is_plain_sasrec(other.name)


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


def test_folders_of_others_are_refused(compared_data: Dataset, compared: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", users=20, seed=5)
    with pytest.raises(CanetError, match="comparison on another data set") as error:
        compare(other, plan("fpmc"), compared, force=False, say=quiet)
    assert "--force" in str(error.value)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(CanetError, match=r"not an artefact"):
            compare(compared_data, plan("fpmc"), mine, force=force, say=quiet)
    assert (mine / "thesis.txt").read_text("utf-8") == "mine"


def test_a_replaced_comparison_stands_until_the_new_one_is_done(
    compared_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_dataset(tmp_path / "other", users=20, seed=5)
    out = tmp_path / "out"
    compare(other, plan("fpmc"), out, force=False, say=quiet)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(comparison, "write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        compare(compared_data, plan("fpmc"), out, force=True, say=quiet)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    said: list[str] = []
    document = compare(compared_data, plan("fpmc"), out, force=True, say=said.append)
    assert document["dataset"]["content_hash"] == compared_data.content_hash
    assert not any("training" in line for line in said), "the run made before the interruption is kept"
    assert f"wrote {out / 'compare.json'}" in said and not (tmp_path / "out.new").exists()
    assert "replaces" not in read_json(out / "manifest.json")
    compare(compared_data, plan("fpmc"), out, force=False, say=said.append)


def test_the_command_prints_its_results_and_its_exit_code(
    compared_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "compare",
        "--data",
        str(compared_data.directory),
        "--models",
        "fpmc,sasrec-8x1",
        "--seeds",
        "1",
        *TINY_SET,
    ]
    assert cli([*arguments, "--json", "--budget", "0.2"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(
        (tmp_path / "compare" / "small" / "compare.json").read_text(encoding="utf-8")
    )
    assert json.loads(printed.out)["budget"] == 0.2 and "2 of 2 runs" in printed.err
    monkeypatch.setattr(trainer, "train", failing("fpmc"))
    assert cli([*arguments, "--set=lr=0.02"]) == 1
    assert "the tensors do not fit" in capsys.readouterr().out
    assert cli(["compare", "--models", "nonsense", "--data", str(compared_data.directory)]) == 2
