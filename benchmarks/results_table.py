"""Turn the records of benchmarks/results/ into docs/results.md and the table of the README.

    python benchmarks/results_table.py

Nothing is computed here: every figure stands in a record that compare_methods.py wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).parent
ROOT = HERE.parent
EXPERIMENTS = tomllib.loads((HERE / "experiments.toml").read_text())
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEADER = (
    "| method | paper MFLOPs | of full | NDCG@10 / Recall@10, seen kept | seen excluded "
    "| epochs (best) | ended by |\n"
    "|---|---|---|---|---|---|---|\n"
)
INTRO = """# Results

Leave-one-out, full catalogue, test users; chosen on validation. Costs are paper MFLOPs (2 × MACs) of the
routes that argmax takes, the router included. One seed a row unless said; standard errors in the sentences are
over users, not over seeds. A run that ended by `epochs` with its best epoch last had not converged: the time of
two shared cores was the limit. Every row is a record in `benchmarks/results/`, made by

    python benchmarks/compare_methods.py --data-root DIR
    python benchmarks/results_table.py

The sandwich epochs of these records were chosen before the ladder of routes was picked by routed validation; the
router and evaluation of a record whose `routing` has the new rule were made again on the same weights (s3rec-beauty's
were not).

where DIR holds the public data sets named in `benchmarks/experiments.toml`. What was not run is listed as such.
"""


def records(data: str) -> dict[str, dict[str, Any]]:
    """Seed-0 records of one data set by experiment."""
    found = {}
    for path in sorted((HERE / "results").glob(f"{data}.*.seed0.json")):
        record = json.loads(path.read_text())
        found[record["experiment"]] = record
    return found


def pair(values: dict[str, Any]) -> str:
    """NDCG@10 / Recall@10."""
    return f"{values['ndcg@10']:.4f} / {values['recall@10']:.4f}"


def row(
    name: str, cost: float | None, full: float, both: dict[str, Any], record: dict[str, Any] | None
) -> str:
    """One line of a table."""
    spent = ("–", "–") if cost is None else (f"{cost:.1f}", f"{cost / full:.0%}")
    ran = (
        ("–", "–")
        if record is None
        else (f"{record['epochs']} ({record['best_epoch'] + 1})", record["stopped_by"])
    )
    return f"| {' | '.join((name, *spent, pair(both['keep']), pair(both['exclude']), *ran))} |\n"


def table(data: str, found: dict[str, dict[str, Any]]) -> str:
    """The table of one data set."""
    any_record = next(iter(found.values()))
    full = any_record["evaluation"]["costs"]["sasrec_full_paper_mflops"]
    floors = any_record["evaluation"]["floors"]
    text = HEADER
    for name, floor in (("popularity", floors["popularity"]), ("first-order Markov", floors["markov"])):
        text += row(name, None, full, floor, None)
    for name in sorted(found, key=lambda n: (not n.startswith("sasrec"), n)):
        record, evaluation = found[name], found[name]["evaluation"]
        text += row(title(name), evaluation["costs"]["paper_mflops"], full, evaluation["routed"], record)
        routing = evaluation["routing"]
        if routing is None:
            continue
        for label, reference in (
            ("↳ random routing, same histogram", routing["random"]),
            ("↳ best fixed route at that cost", routing["best_fixed"]),
        ):
            cost = reference["keep"].get("paper_mflops", evaluation["costs"]["paper_mflops"])
            text += row(label, cost, full, reference, None)
        widest = evaluation["routes"][-1]
        text += row(f"↳ largest route {widest['entry']}", widest["paper_mflops"], full, widest, None)
    return text


def title(name: str) -> str:
    """An experiment's name as the tables print it."""
    kind, _, rest = name.partition("-")
    if kind == "canet":
        return f"**CANet, {rest} recipe, routed**"
    return "SASRec-full (128 × 8)" if rest == "full" else f"SASRec {rest.replace('x', ' × ')}"


def section(data: str) -> str:
    """A data set's heading, table, verdicts, and what was not run."""
    found = records(data)
    planned = [name for name, value in EXPERIMENTS[data].items() if isinstance(value, dict)]
    missing = [name for name in planned if name not in found]
    if not found:
        return f"\n## {data}\n\nNot run.\n"
    first = next(iter(found.values()))
    counts = first["counts"]
    text = f"\n## {data}\n\n{counts['users']:,} users, {counts['items']:,} items, "
    text += f"{counts['interactions']:,} interactions; {first['evaluation']['users']:,} test users; "
    text += f"L = {first['evaluation']['length']}; validation by seen={first['config']['seen']}.\n\n"
    text += table(data, found)
    for name, record in found.items():
        if record["evaluation"]["routing"] is None:
            continue
        routing = record["evaluation"]["routing"]
        text += f"\n{title(name)}: {routing['routes_used']} routes in use, the most used holds "
        text += f"{routing['largest_share']:.0%} of users, normalised route entropy "
        text += f"{routing['normalised_entropy']:.2f}. " + " ".join(record["evaluation"]["verdict"]) + "\n"
    if missing:
        text += f"\nNot run: {', '.join(missing)}.\n"
    return text


def short(data: str) -> str:
    """The README's lines of one data set, under the protocol its validation used."""
    found = records(data)
    if not found:
        return ""
    first = next(iter(found.values()))
    seen = first["config"]["seen"]
    markov = first["evaluation"]["floors"]["markov"][seen]
    full = first["evaluation"]["costs"]["sasrec_full_paper_mflops"]
    lines = f"| {data} (seen {seen}) | first-order Markov | – | {markov['ndcg@10']:.4f} |\n"
    for name in sorted(found, key=lambda n: (not n.startswith("sasrec"), n)):
        evaluation = found[name]["evaluation"]
        cost = evaluation["costs"]["paper_mflops"]
        lines += f"| | {title(name)} | {cost / full:.0%} | {evaluation['routed'][seen]['ndcg@10']:.4f} |\n"
    return lines


def main() -> None:
    """Write both documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    sections = "".join(section(data) for data in EXPERIMENTS)
    (ROOT / "docs" / "results.md").write_text(INTRO + sections)
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    head = "| data set | method | paper FLOPs of SASRec-full | NDCG@10 |\n|---|---|---|---|\n"
    block = head + "".join(short(data) for data in EXPERIMENTS)
    readme.write_text(f"{before}{BEGIN}\n{block}{END}{after}")


if __name__ == "__main__":
    main()
