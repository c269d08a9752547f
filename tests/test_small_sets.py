"""Small data sets and small catalogues: trained and exported, or refused by name, figure and fix."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from compare_toys import plan, quiet
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toys import SMALL

from canet_mobile.cli.evaluate import evaluate
from canet_mobile.cli.export import export
from canet_mobile.cli.parity import parity
from canet_mobile.cli.replay import replay
from canet_mobile.compare.comparison import compare, failed
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.data.lists import is_enough, list_length
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.run.automatic import seen_protocol
from canet_mobile.run.config import BASELINES, RECIPES, SASREC_RECIPES, TrainConfig, apply
from canet_mobile.run.least import refuse_small
from canet_mobile.run.reporter import Silent
from canet_mobile.train.trainer import train

TINY = TrainConfig(**{**SMALL, "epochs": 1, "length": 50})
SASREC = {"model": "sasrec", "embedding": [8], "hidden": [8], "depth": [1]}
DRAWN = random.Random(0)
LOGS: dict[str, list[list[int]]] = {
    "two users": [[0, 1, 2, 3, 4], [2, 3, 4, 0, 1]],
    "two users, one of them of 3 items": [[0, 1, 2, 3], [0, 1, 2]],
    "two items": [[DRAWN.randrange(2) for _ in range(6)] for _ in range(6)],
    "an item for each": [[user] * 6 for user in range(6)],
    "five items": [DRAWN.sample(range(5), 4) for _ in range(20)],
    "thirty items": [DRAWN.sample(range(30), 12) for _ in range(40)],
}


def imported(folder: Path, histories: list[list[int]]) -> Dataset:
    lines = [
        f"u{user},i{item},{time}" for user, items in enumerate(histories) for time, item in enumerate(items)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n", encoding="utf-8")
    return import_log(folder / "log.csv", folder / "set", ImportOptions(min_item_count=1, min_history=3))


def configured(**changes: object) -> TrainConfig:
    return apply(TINY, changes)


ANY = [
    *(dict(recipe=recipe) for recipe in RECIPES if recipe not in SASREC_RECIPES),
    dict(polish=1),
    SASREC,
    *(SASREC | dict(recipe=recipe) for recipe in SASREC_RECIPES),
    *(dict(model=model) for model in BASELINES if model != "nextitnet"),
    dict(model="nextitnet", embedding=[16], hidden=[16]),
]


class Heard(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("name", LOGS)
def test_every_model_and_recipe_trains_on_a_small_set_and_is_judged(name: str, tmp_path: Path) -> None:
    dataset = imported(tmp_path, LOGS[name])
    for number, changes in enumerate(ANY):
        more = {"guide_k": 1} if changes.get("recipe") == "paper" else {}
        run = train(configured(**changes, **more), dataset, tmp_path / f"run{number}")
        judged = CliRunner().invoke(evaluate, [str(run.directory), "--json"], catch_exceptions=False)
        assert 0 <= json.loads(judged.stdout)["routed"]["keep"]["ndcg@10"] <= 1, changes


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        ([[0] * 6] * 6, r"set: holds 1 item; training needs at least 2[\s\S]*fix: .*--min-item-count"),
        (
            [[0, 1, 2], [1, 2, 3], [2, 3, 0]],
            r"set: its longest history holds 3 items; training needs one of at least 4[\s\S]*fix: import",
        ),
    ],
)
def test_what_can_never_be_trained_is_refused_by_name_figure_and_fix(
    histories: list[list[int]], words: str, tmp_path: Path
) -> None:
    dataset = imported(tmp_path, histories)
    for changes in ANY:
        with pytest.raises(CanetError, match=words):
            train(configured(**changes), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_key_is_checked_only_where_it_is_read(tmp_path: Path) -> None:
    dataset = imported(tmp_path, LOGS["five items"])
    assert TINY.guide_k > dataset.num_items
    for changes in ANY:
        if changes.get("recipe") != "paper":
            refuse_small(dataset, configured(**changes))
    refuse_small(dataset, configured(**SASREC, recipe="paper"))  # a SASRec is plain under it
    with pytest.raises(CanetError, match=r"5 items, not more than guide_k = 10\n  fix: --set guide_k=1"):
        refuse_small(dataset, configured(recipe="paper"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=20), min_size=1, max_size=8),
    st.integers(0, 25), st.integers(1, 15), st.integers(1, 25),
)  # fmt: skip
def test_a_list_is_as_long_as_what_the_newest_items_leave(
    histories: list[list[int]], more: int, length: int, wanted: int
) -> None:
    items = max(map(max, histories)) + more
    offsets = np.cumsum([0, *map(len, histories)])
    flat = np.array([item for history in histories for item in history], np.int32)
    dataset = Dataset(Path("none"), {"counts": {"items": items}}, offsets, flat)
    left = min(items - len(set(history[-length:])) for history in histories)
    assert list_length(dataset, length, "exclude", wanted) == min(left, wanted)
    assert list_length(dataset, length, "keep", wanted) == min(items, wanted)
    if left:
        assert is_enough(min(left, wanted), min(wanted, 10), items=items, length=length, seen="exclude")


@pytest.mark.parametrize(
    ("name", "seen", "k"),
    [("two users", "keep", 5), ("five items", "exclude", 1), ("thirty items", "exclude", 18)],
)
def test_a_small_catalogue_is_exported_with_what_is_left(
    name: str, seen: str, k: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    dataset, heard = imported(tmp_path, LOGS[name]), Heard()
    run = train(configured(epochs=4, lr=0.02), dataset, tmp_path / "run", reporter=heard)
    assert run.config.seen == seen
    assert any(f"lists will hold {'all ' if seen == 'keep' else ''}{k} " in note for note in heard.notes)
    out = str(tmp_path / "package")
    made = CliRunner().invoke(
        export,
        [str(run.directory), "--target", "onnx", "--quantize", "fp32", "--out", out, "--json"],
        catch_exceptions=False,
    )
    assert made.exit_code == 0
    manifest = json.loads(made.stdout)
    assert (manifest["k"], manifest["seen"]) == (k, seen)
    assert "lists hold" in made.stderr
    assert manifest["accuracy"]["package_host"] == pytest.approx(manifest["accuracy"]["pytorch_fp32"])
    for command in (parity, replay):
        told = CliRunner().invoke(
            command, [out, "--run", str(run.directory), "--json"], catch_exceptions=False
        )
        assert told.exit_code == 0, told.output
    for asked, advice in (("--k", f"--k {k}"), ("--seen", "--seen keep")):
        given_too = ["--k", str(k + 1)] if asked == "--k" else ["--seen", "exclude"]
        if asked == "--seen" and seen == "exclude":
            continue
        refused = CliRunner().invoke(
            export, [str(run.directory), "--target", "onnx", "--out", f"{out}2", *given_too]
        )
        assert isinstance(refused.exception, UsageError) and advice in str(refused.exception)


def test_a_tflite_route_finds_its_candidates_where_there_are_fewer_than_k_and_an_input(
    tmp_path: Path,
) -> None:
    pytest.importorskip("litert_torch")
    dataset = imported(tmp_path, LOGS["thirty items"])
    run = train(configured(), dataset, tmp_path / "run")
    made = CliRunner().invoke(
        export,
        [str(run.directory), "--target", "tflite", "--routes", "e8_h8_d1,e16_h16_d2", "--out",
         str(tmp_path / "package"), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert (json.loads(made.stdout)["k"], made.exit_code) == (18, 0)


def test_items_are_kept_where_somebody_has_seen_them_all(tmp_path: Path) -> None:
    dataset = imported(tmp_path, [[0, 1, 2, 3], [3, 2, 1], [1, 3, 0]])
    assert seen_protocol(TINY, dataset) == "keep"
    assert seen_protocol(configured(length=3), dataset) == "exclude", "an input of 3 leaves one"


def test_methods_that_cost_next_to_nothing_are_drawn(tmp_path: Path) -> None:
    dataset = imported(tmp_path, LOGS["two items"])
    document = compare(dataset, plan("fpmc", "sasrec-8x1"), tmp_path / "out", force=False, say=quiet)
    assert not failed(document)
    assert min(row["paper_mflops"]["mean"] for row in document["methods"]) == 0
    assert (tmp_path / "out" / "compare.html").is_file()
