"""Turn the records of benchmarks/results/ into docs/results.md and the table of the README.

    python benchmarks/results_table.py

Nothing is computed here: every figure is that of a record, or the mean of its seeds, which compare_methods.py or
`canet-mobile compare` wrote.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from _claims import (
    BUDGET_HEADER,
    DOUBLE_DAGGER,
    PARTS_HEADER,
    POLISH_HEADER,
    advised,
    budget_row,
    claims_row,
    default_runs,
    mark,
    mean,
    parts_rows,
    polish_rows,
    spread,
    twins,
)
from _claims import HEADER as CLAIMS_HEADER

from canet_mobile.compare.methods import known_methods, select
from canet_mobile.compare.statistics import over_seeds
from canet_mobile.compare.tables import figure
from canet_mobile.evaluate.verdict import verdict
from canet_mobile.files import atomic_file
from canet_mobile.run.config import TrainConfig

HERE = Path(__file__).parent
ROOT = HERE.parent
EXPERIMENTS = tomllib.loads((HERE / "experiments.toml").read_text(encoding="utf-8"))
METHODS = known_methods(TrainConfig(), items=1000)
CANETS = ("canet", "canet-paper")
# Their records are kept; what made them is another default now, or code in the history alone.
RETIRED = {
    "canet-dearer": "CANet, a budget of 0.3",
    "canet-gain": "CANet, a router of expected gains",
    "canet-both": "CANet, a router of both routes' doubts",
}
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEADER = (
    "| method | paper MFLOPs | of full | NDCG@10 / Recall@10, seen kept | seen excluded "
    "| epochs (best) | ended by |\n"
    "|---|---|---|---|---|---|---|\n"
)
INTRO = """# Results

Leave-one-out, full catalogue, test users; chosen on validation. Costs are paper MFLOPs (2 × MACs) of the
routes that argmax takes, the router included. One seed a row, or means with ± their standard error over seeds;
standard errors in the sentences are over users. A run that ended by `epochs` with its best epoch last had not
converged: the time of two shared cores, or minutes of a GPU, were the limit. Every row comes from records in `benchmarks/results/`, made
by the first of these commands, or by `canet-mobile compare` (docs/compare.md):

    python benchmarks/compare_methods.py --data-root DIR
    python benchmarks/routing_over_seeds.py --data-root DIR DATA_SET...
    python benchmarks/results_table.py

where DIR holds the public data sets named in `benchmarks/experiments.toml`. What was not run is listed as such.

## The default recipe

CANet by the recipe of `train`'s defaults, with the epochs, dropout and windows that `benchmarks/experiments.toml` gives to
all methods of a data set, under the protocol of its validation. Ratios are of NDCG@10: to SASRec-full, to the largest route
of its own supernet, to the plain SASRec nearest in cost, to CANet trained by the paper's recipe, to a first-order Markov
chain, and, on average over sizes, of a route to a plain SASRec of its size that was trained alone. Two columns set a model
beside itself, the largest route and random routing: these are over all test users where `routing_over_seeds.py` has been run
(`benchmarks/results/routing/`), also where the others are over the part of them that `compare_methods.py` asks. What users gain by being routed is averaged
over seeds first, and the standard error is then taken over users, or over seeds if that is larger. The last columns are
what `train` advises of each seed by the rule of the day (docs/training.md, "Advice") from what validation users said, and what test users who
are served by that get and cost. CANet and the plain SASRecs have blocks that act from the start (docs/training.md), but
where a † says otherwise; the other methods were recorded when blocks still started closed.

"""
LEFT_BEHIND = f"""
{DOUBLE_DAGGER.strip()} is CANet from before neighbours had a say in what the average teaches, and before a ladder was chosen by what it
gains ("What the neighbours say", "The ladder", docs/training.md): the recipe of today has not been run there, or with
fewer seeds.
"""


PARTS = """
## Its parts

The default recipe and the same with one part exchanged, over the seeds that both have. Ratios above 1 favour the
default: of the routed NDCG@10, of the mean over all routes given to everybody, and of the largest route. "A router of
expected gains" was the default's until it was seen to learn nothing of its label (docs/training.md); a part measured in
those days is compared with it, one measured before windows moved with "fixed windows", and one measured when the default
budget was 0.3 with "a budget of 0.3", which shares the default's supernets. "A router of both routes'
doubts" is told, beside how unsure the small route is, a weighted sum of how unsure both are, with weights fitted to who
gained on validation; it shares the default's supernets. The code of these two routers is in the history alone. On s3rec-beauty,
diginetica and yoochoose-100k all windows are fixed: hardly any history there is longer than one. A part is
compared with the default, of today or of then, from which it differs in the fewest settings. † is from before blocks acted
from the start: what is compared has them closed on both sides. ‡ is from before neighbours had a say: what is compared has
none on both sides. Of "taught by its average alone" the router, too, is from before: its ladder was not chosen by what it
gains, so read the means over routes.

"""


BUDGETS = f"""
## Other budgets

The same supernets with a router for another share of SASRec-full's cost, as `canet-mobile route RUN --budget B` fits it, on
all test users (`routing_over_seeds.py --budget B`). The default is {TrainConfig().budget:g}. It was 0.3, at which most users can have 128 × 2
and the others hardly less, and was changed when other budgets had been seen on test users of
s3rec-beauty, nowplaying and amazon-beauty (seed 0): on these three it has not been chosen blindly. Seed 1 of amazon-beauty
was finished and judged after it.

"""


POLISH = """
## Polishing

`polish = 3` ("Polishing", docs/training.md): after the epochs for all routes, the ladder's two learn alone, each from the
users it will serve. What validation users who chose the ladder gained by it, seed by seed, each served by the route that the
label gives them. It is kept where that is more than two standard errors, and the epochs that are left are spared where it is
less than minus one; where it is not kept, the model is the default's. It was run on the default's finished models, when the
default budget was 0.3.

"""


def records(data: str) -> dict[str, list[dict[str, Any]]]:
    """Records of one data set by experiment, each with its seeds; compared methods, SASRecs, then CANets."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((HERE / "results").glob(f"{data}.*.seed*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["experiment"], []).append(record)
    order = sorted(
        found, key=lambda name: (name.startswith(("sasrec", "canet")), name.startswith("canet"), name)
    )
    return {name: sorted(found[name], key=lambda record: record["seed"]) for name in order}


def together(data: str) -> dict[str, Any] | None:
    """What routing_over_seeds.py found on a data set."""
    path = HERE / "results" / "routing" / f"{data}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def budget_rows(data: str) -> str:
    """The lines of a data set on which other budgets than the default were tried, the smallest first."""
    tried = {}
    for path in (HERE / "results" / "routing").glob(f"{data}.budget*.json"):
        tried[float(path.stem.partition(".budget")[2])] = json.loads(path.read_text(encoding="utf-8"))
    default = together(data)
    if tried and default is not None:
        tried[TrainConfig().budget] = default
    return "".join(budget_row(data, budget, found) for budget, found in sorted(tried.items()))


def pair(each: list[dict[str, Any]]) -> str:
    """NDCG@10 / Recall@10, means over seeds with their standard errors."""
    return " / ".join(
        figure(over_seeds([values[name] for values in each])) for name in ("ndcg@10", "recall@10")
    )


def row(
    name: str, cost: float | None, full: float, both: list[dict[str, Any]], seeds: list[dict[str, Any]]
) -> str:
    """One line of a table; no seeds for what is not trained."""
    spent = ("–", "–") if cost is None else (f"{cost:.1f}", f"{cost / full:.0%}")
    ran = ("–", "–")
    if seeds:
        epochs = ", ".join(f"{record['epochs']} ({record['best_epoch'] + 1})" for record in seeds)
        ran = (epochs, ", ".join(dict.fromkeys(record["stopped_by"] for record in seeds)))
    figures = (pair([values[protocol] for values in both]) for protocol in ("keep", "exclude"))
    return f"| {' | '.join((name, *spent, *figures, *ran))} |\n"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The table of one data set."""
    any_record = next(iter(found.values()))[0]
    full = any_record["evaluation"]["costs"]["sasrec_full_paper_mflops"]
    floors = any_record["evaluation"]["floors"]
    text = HEADER
    for name, floor in (("popularity", floors["popularity"]), ("first-order Markov", floors["markov"])):
        text += row(name, None, full, [floor], [])
    for name, seeds in found.items():
        each = [record["evaluation"] for record in seeds]
        cost = mean([evaluation["costs"]["paper_mflops"] for evaluation in each])
        text += row(title(name, seeds[0]), cost, full, [evaluation["routed"] for evaluation in each], seeds)
        routings = [evaluation["routing"] for evaluation in each]
        if None in routings or not headline(name, found):
            continue
        for label, key in (
            ("↳ random routing, same histogram", "random"),
            ("↳ best fixed route at that cost", "best_fixed"),
        ):
            references = [routing[key] for routing in routings]
            own = mean([reference["keep"].get("paper_mflops", cost) for reference in references])
            text += row(label, own, full, references, [])
        widest = [evaluation["routes"][-1] for evaluation in each]
        text += row(f"↳ largest route {widest[0]['entry']}", widest[0]["paper_mflops"], full, widest, [])
    return text


def routing_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """What every router does, and what it buys, under the protocol that validation used."""
    rows = ""
    for name, seeds in found.items():
        routings = [record["evaluation"]["routing"] for record in seeds]
        if None in routings or None in [routing["random"] for routing in routings]:
            continue
        seen = seeds[0]["config"]["seen"]
        cells = [
            figure(over_seeds([routing[key] for routing in routings]), 2)
            for key in ("normalised_entropy", "largest_share")
        ]
        for key in ("random", "best_fixed"):
            gaps = [routing[key][seen]["difference"]["ndcg@10"] for routing in routings]
            cells.append(f"{mean([gap['value'] for gap in gaps]):+.4f} ± {spread(gaps):.4f}")
        rows += f"| {title(name, seeds[0])} | {' | '.join(cells)} |\n"
    if not rows:
        return ""
    return (
        "\n| router | normalised route entropy | largest route's share | NDCG@10 against random routing "
        "| against the best fixed choice |\n|---|---|---|---|---|\n" + rows
    )


def points_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Operating points of the default recipe: what validation users said when they were set."""
    points = [record["routing"].get("operating_points") for record in default_runs(found)]
    if not points or None in points:
        return ""
    text = "\n| operating point of CANet (validation users) | paper MFLOPs | NDCG@10 |\n|---|---|---|\n"
    for each in zip(*points, strict=True):
        cost, quality = (figure(over_seeds([point[key] for point in each])) for key in ("mflops", "ndcg10"))
        text += f"| {each[0]['name']} | {cost} | {quality} |\n"
    return text


def twins_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Every plain SASRec beside the route of its size: one training against many."""
    rows = twins(found)
    if not rows:
        return ""
    text = (
        "\n| route of CANet's supernet | NDCG@10 | SASRec of that size, alone | ratio |\n|---|---|---|---|\n"
    )
    for entry, own, alone, ratio in rows:
        text += f"| {entry} | {own:.4f} | {alone:.4f} | {ratio:.3f} |\n"
    return f"{text}| mean of {len(rows)} | | | {mean([ratio for *_, ratio in rows]):.3f} |\n"


def title(name: str, record: dict[str, Any]) -> str:
    """An experiment's name as the tables print it."""
    kind, _, rest = name.partition("-")
    if kind == "sasrec":
        sizes = f"{record['config']['hidden'][0]} × {record['config']['depth'][0]}"
        if name in METHODS:
            return f"SASRec-{rest} ({sizes}){mark(record)}"
        return select([name], TrainConfig(), items=1000)[0].title + mark(record)
    if name in CANETS:
        return f"**CANet, {rest or 'default'} recipe, routed**"
    return METHODS[name].title if name in METHODS else RETIRED.get(name, name)


def headline(name: str, found: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether an experiment is a CANet itself rather than one of its ablations."""
    return name in CANETS or found[name] is default_runs(found)


def section(data: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """A data set's heading, table, verdicts, and what was not run."""
    planned, seeds_planned = EXPERIMENTS[data]["methods"], EXPERIMENTS[data]["seeds"]
    missing = [
        f"{name} ({count} of {seeds_planned} seeds left)" if count < seeds_planned else name
        for name in planned
        if (count := seeds_planned - len(found.get(name, ()))) > 0
    ]
    if not found:
        return f"\n## {data}\n\nNot run: {', '.join(planned)}.\n"
    first = next(iter(found.values()))[0]
    counts = first["counts"]
    text = f"\n## {data}\n\n{counts['users']:,} users, {counts['items']:,} items, "
    text += f"{counts['interactions']:,} interactions; {first['evaluation']['users']:,} test users; "
    text += f"L = {first['evaluation']['length']}; validation by seen={first['config']['seen']}.\n\n"
    text += table(found) + routing_table(found) + points_table(found) + twins_table(found)
    for name, seeds in found.items():
        record = seeds[0]
        if record["evaluation"]["routing"] is None or not headline(name, found):
            continue
        routing = record["evaluation"]["routing"]
        which = f", seed {record['seed']}" if len(seeds) > 1 else ""
        text += (
            f"\n{title(name, record)}{which}: {routing['routes_used']} routes in use, the most used holds "
        )
        text += f"{routing['largest_share']:.0%} of users, normalised route entropy "
        text += f"{routing['normalised_entropy']:.2f}. " + " ".join(verdict(record["evaluation"])) + "\n"
    if missing:
        text += f"\nNot run: {', '.join(missing)}.\n"
    return text + on_gpus(found)


def on_gpus(found: dict[str, list[dict[str, Any]]]) -> str:
    """Which experiments were trained on a GPU, if any; the others ran on CPUs."""
    cards: dict[str, list[str]] = {}
    for name, seeds in found.items():
        for card in sorted({record["machine"]["gpu"] for record in seeds if record["machine"].get("gpu")}):
            cards.setdefault(card, []).append(name)
    return "".join(f"\nOn {card}: {', '.join(names)}.\n" for card, names in cards.items())


def pages(readme: str) -> tuple[str, str]:
    """docs/results.md, and a README with today's table between its marks."""
    sets = {data: records(data) for data in EXPERIMENTS}
    sections = "".join(section(data, found) for data, found in sets.items())
    claims = CLAIMS_HEADER + "".join(claims_row(data, found, together(data)) for data, found in sets.items())
    exchanged = {name: method.title for name, method in METHODS.items() if method.group == "recipe"} | RETIRED
    parts = PARTS_HEADER + "".join(parts_rows(data, found, exchanged) for data, found in sets.items())
    budgets = BUDGET_HEADER + "".join(budget_rows(data) for data in EXPERIMENTS)
    polished = POLISH_HEADER + "".join(polish_rows(data, found) for data, found in sets.items())
    note = LEFT_BEHIND if DOUBLE_DAGGER in claims else ""
    results = INTRO + claims + note + PARTS + parts + BUDGETS + budgets + POLISH + polished + sections
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return results, f"{before}{BEGIN}\n{claims}\n{routers_sentence(sets)}{END}{after}"


def routers_sentence(sets: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """On how many data sets the advice is the router, with every seed or with some."""
    told = {data: advised(default_runs(found)) for data, found in sets.items() if default_runs(found)}
    always = sum(set(said) == {"the router"} for said in told.values())
    ever = sum("the router" in said for said in told.values())
    return (
        f'By the rule for "routing pays", `train` says to ship the router on {always} of these {len(told)} data '
        f"sets, and with some seed on {ever}.\n"
    )


def main() -> None:
    """Write both documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    readme = ROOT / "README.md"
    results, text = pages(readme.read_text(encoding="utf-8"))
    for path, page in ((ROOT / "docs" / "results.md", results), (readme, text)):
        with atomic_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
