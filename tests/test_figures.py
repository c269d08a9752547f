"""No figure stands in prose that a command neither makes nor checks; tables are what their commands make."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from canet_mobile.evaluate import routing
from canet_mobile.routing import advice
from canet_mobile.run.config import TrainConfig

Scripts = Callable[[str], ModuleType]
ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
README = (ROOT / "README.md").read_text("utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text("utf-8")
EXPERIMENTS = tomllib.loads((BENCHMARKS / "experiments.toml").read_text("utf-8"))

# What a measurement looks like: a decimal, a percentage, an error, a count of thousands, a multiple.
FIGURE = re.compile(
    r"±|(?<![\w.])\d*\.\d+|\d+(?: to \d+)?\s?%|\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)? times|\d+ standard errors"
)
BLOCK = r"<!-- (\w+):begin -->.*?<!-- \1:end -->"


def prose(page: str) -> str:
    """A page without code, generated blocks and the targets of links."""
    for pattern in (r"```.*?```", BLOCK, r"`[^`]*`", r"(?<=\])\([^)]*\)"):
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    return page


def sentences(text: str) -> list[str]:
    """Its sentences and cells, line ends as blanks."""
    parts = re.split(r"\n\s*\n|\n\* |\n\||\| |(?<=[.:;?])\s+(?=[A-Z*(])", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def declared_python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return re.sub(r"[^\d.]", "", project["requires-python"])


def found_in(name: str, pattern: str) -> str:
    """The first group of a pattern in a file of the project."""
    found = re.search(pattern, (ROOT / name).read_text("utf-8"))
    assert found, f"{name} says no {pattern}"
    return found[1]


def default_of(script: str, option: str) -> str:
    """The default of a benchmark's option, as prose writes it."""
    found = found_in(f"benchmarks/{script}", rf'"--{option}", type=int, default=([\d_]+)')
    return f"{int(found):,}"


# The figures that README's prose may hold: how it writes them, and where the test finds what they must be.
FACTS: dict[str, Callable[[], str]] = {
    r"Python (\d+\.\d+) or later": declared_python,
    r"Apache-(\d\.\d)": lambda: found_in("LICENSE", r"Version (\d\.\d)"),
    r"CC BY (\d\.\d)": lambda: found_in("NOTICE", r"Attribution (\d\.\d)"),
    r"ranking ([\d,]+) users": lambda: default_of("evaluation_speed.py", "users"),
    r"over ([\d,]+) items": lambda: default_of("evaluation_speed.py", "items"),
    r"budget is (\d+) % of": lambda: f"{TrainConfig().budget * 100:.0f}",
    r"(±) is the standard error": lambda: "±",
}


def test_readme_holds_no_result_that_no_command_makes() -> None:
    text = " ".join(prose(README).split())
    for pattern, fact in FACTS.items():
        told = re.findall(pattern, text)
        assert told and {*told} == {fact()}, f"README: {pattern} should say {fact()}"
        text = re.sub(pattern, "", text)
    hits = [text[max(0, hit.start() - 40) : hit.end() + 20] for hit in FIGURE.finditer(text)]
    assert not hits, f"README's prose holds figures: {hits}"


@pytest.mark.parametrize(
    "line",
    [
        "beats random routing (0.0016 on nowplaying)", "7 % better", "7% better", "17 to 26 % of its FLOPs",
        "has .118 there", "0.2 ± 0.1", "on all 128,077 test users", "6 times as fast",
        "by 13 standard errors",
    ],
)  # fmt: skip
def test_a_result_typed_by_hand_would_be_found(line: str) -> None:
    assert FIGURE.search(prose(f"Text `0.5` and [a link](docs/0.1.md).\n\n```\n0.3\n```\n{line}"))


@pytest.mark.parametrize(
    "line", ["ICDM 2022", "one of 36 submodels", "128 × 8", "64/96/128", "`--budget 0.15`"]
)
def test_a_name_or_a_size_is_no_result(line: str) -> None:
    assert not FIGURE.search(prose(line))


@pytest.mark.parametrize("page", ["training.md", "evaluation.md", "compare.md"])
def test_no_sentence_of_the_manual_has_figures_of_a_data_set(page: str) -> None:
    text = prose((ROOT / "docs" / page).read_text("utf-8"))
    hits = [
        sentence
        for sentence in sentences(text)
        if FIGURE.search(sentence) and any(data in sentence for data in EXPERIMENTS)
    ]
    assert not hits, f"docs/{page}: move to docs/history.md, or let a command make it: {hits}"
    assert "±" not in text or page == "compare.md", "compare.md says what it stands for"


def test_the_rule_for_routing_is_documented_with_its_constants() -> None:
    """`SURE` and `FEWEST_USERS`, wherever a page tells the rule."""
    assert routing.SURE == 3.0
    text = {
        page: (ROOT / "docs" / page).read_text("utf-8")
        for page in ("training.md", "evaluation.md", "compare.md")
    }
    for page, words in text.items():
        joined = " ".join(words.split())
        assert "three standard errors" in joined, page
        assert f"{routing.FEWEST_USERS:,} users or more" in joined, page
    joined = " ".join(TRAINING.split())
    assert f"asked, {advice.OTHER_USERS:,} at most" in joined
    assert f"Every second user, {advice.CHOOSING_USERS:,} at most" in joined


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """Imports a benchmark with its folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_results_are_what_their_command_makes_of_the_records(
    scripts: Scripts,
) -> None:
    results, readme = scripts("results_table").pages(README)
    again = "run python benchmarks/results_table.py"
    assert (ROOT / "docs" / "results.md").read_text("utf-8") == results, again
    assert readme == README, again


def test_the_tables_of_training_are_what_their_command_makes_of_the_records(
    scripts: Scripts,
) -> None:
    assert scripts("step_tables").page(TRAINING) == TRAINING, "run python benchmarks/step_tables.py"


def test_the_words_around_the_results_hold_no_results(scripts: Scripts) -> None:
    """What results_table.py adds by itself; a budget of then is that of records."""
    table = scripts("results_table")
    dearer = [
        json.loads(path.read_text("utf-8")) for path in (BENCHMARKS / "results").glob("*.canet-dearer.*")
    ]
    (then,) = {f"{record['config']['budget']:g}" for record in dearer}
    told = {then, f"{TrainConfig().budget:g}"}
    for text in (table.INTRO, table.LEFT_BEHIND, table.PARTS, table.BUDGETS, table.POLISH):
        found = {hit[0] for hit in FIGURE.finditer(prose(text))}
        assert found <= told | {"±"}, text


def test_on_how_many_sets_the_router_is_advised_is_counted(scripts: Scripts) -> None:
    clear, vague = ({"value": errors * 0.001, "se": 0.001} for errors in (3.5, 2.5))

    def record(second: dict[str, float]) -> dict:
        said = {"fixed": "e8_h8_d1", "users": 5000, "against_random": clear, "against_fixed": second}
        return {"routing": {"advice": said}}

    sets = {
        "one": {"canet": [record(clear), record(clear)]},
        "two": {"canet": [record(clear), record(vague)]},
        "three": {"canet": [record(vague)]},
        "four": {},
    }
    said = scripts("results_table").routers_sentence(sets)
    assert "the router on 1 of these 3 data sets, and with some seed on 2." in said
