"""The tables of a comparison as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canet_mobile.compare.contrasts import FULL, HEADLINERS, pair_of
from canet_mobile.compare.document import FLOORS
from canet_mobile.compare.statistics import differs, mflops, signed
from canet_mobile.compare.verdict import gap
from canet_mobile.evaluate.scoring import PROTOCOLS
from canet_mobile.evaluate.verdict import mixture_name

NONE = "–"
SHOWN = ("ndcg@10", "recall@10")


@dataclass(frozen=True)
class Table:
    """A titled table: the first column is text, the others are figures."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Every table of the report, those without rows left out."""
    found = [main_table(document), other_protocol(document), routing_table(document), point_table(document)]
    found += [route_use(document), pair_table(document), twin_table(document), run_table(document)]
    return [table for table in found if table.rows]


def main_table(document: Mapping[str, Any]) -> Table:
    """Table III for this data set, floors first, improvement rows last."""
    protocol = document["protocol"]
    seeds = len(document["seeds"])
    error = f"; ± is the standard error over {seeds} seeds" if seeds > 1 else ""
    note = (
        f"seen={protocol} ({_SAID[protocol]}). MFLOPs = 2 × MACs of an average request by the paper's count, "
        f"router included{error}. A method is cut when its training ended before validation had stood "
        "still for its patience."
    )
    header = ["method", "NDCG@10", "Recall@10", "MFLOPs", "of SASRec-full", "epochs (best)", "ended"]
    rows = [
        [title, *(f"{document['floors'][name][protocol][m]:.4f}" for m in SHOWN), *[NONE] * 4]
        for name, title in FLOORS.items()
    ]
    rows += [_main_row(row, protocol) for row in document["methods"]]
    titles = {row["name"]: row["title"] for row in document["methods"]}
    for change in document["improvement"]:
        cells = [_percent(change[name]) for name in (*SHOWN, "paper_mflops")]
        rows.append([f"improvement, {titles[change['name']]} over SASRec-full", *cells, *[NONE] * 3])
    return Table(f"Accuracy and cost on {document['dataset']['name']}", note, header, rows)


_SAID = {
    "keep": "every item competes",
    "exclude": "items of the user's history are not shown again, a repeated target is a miss",
}


def _main_row(row: Mapping[str, Any], protocol: str) -> list[str]:
    if row["metrics"] is None:
        return [row["title"], f"failed: {first_line(row['failures'][0]['reason'])}", *[NONE] * 5]
    runs = row["runs"]
    epochs = ", ".join(f"{run['epochs']} ({run['best_epoch'] + 1})" for run in runs)
    cut = sum(not run["converged"] for run in runs)
    ended = "converged" if not cut else "cut" if cut == len(runs) else f"{cut} of {len(runs)} cut"
    if row["failures"]:
        seeds = ", ".join(str(failure["seed"]) for failure in row["failures"])
        ended += f"; seed {seeds} failed: {first_line(row['failures'][0]['reason'])}"
    found = row["paper_mflops"]
    cost = mflops(found["mean"]) + (f" ± {mflops(found['se'])}" if found["se"] else "")
    cells = [figure(row["metrics"][protocol][name]) for name in SHOWN]
    return [
        row["title"],
        *cells,
        cost,
        f"{row['share_of_full']:.0%}",
        epochs,
        ended,
    ]


def other_protocol(document: Mapping[str, Any]) -> Table:
    """The same runs under the other seen protocol; not what their epochs were chosen by."""
    (protocol,) = set(PROTOCOLS) - {document["protocol"]}
    rows = [
        [title, *(f"{document['floors'][name][protocol][m]:.4f}" for m in SHOWN)]
        for name, title in FLOORS.items()
    ]
    rows += [
        [row["title"], *(figure(row["metrics"][protocol][name]) for name in SHOWN)]
        for row in document["methods"]
        if row["metrics"] is not None
    ]
    note = f"seen={protocol} ({_SAID[protocol]}). Figures of the two protocols may not be mixed."
    return Table("The same under the other protocol", note, ["method", "NDCG@10", "Recall@10"], rows)


def routing_table(document: Mapping[str, Any]) -> Table:
    """What each router did, beside random routing and the best fixed choice of the same cost."""
    protocol = document["protocol"]
    rows = []
    for row in document["methods"]:
        routing = row["routing"]
        if routing is None:
            continue
        gaps = [
            NONE if routing[name] is None else gap(routing[name][protocol]["difference"])
            for name in ("random", "best_fixed")
        ]
        largest = routing["largest"]
        best = NONE if largest is None else figure(largest[protocol]["ndcg@10"])
        used, entropy = figure(routing["routes_used"], 1), figure(routing["normalised_entropy"], 2)
        share = f"{routing['largest_share']['mean']:.0%}"
        rows.append([row["title"], used, entropy, share, *gaps, _fixed_choice(routing, protocol), best])
    header = ["method", "routes used", "normalised entropy", "most used route"]
    header += ["against random", "against best fixed", "best fixed", "largest route, NDCG@10"]
    note = (
        "Random: routes drawn from the router's own histogram, blind to the user. Best fixed: the route or "
        "mixture of two routes, chosen on validation, that costs no more. Differences in NDCG@10; ± is the "
        "larger of the standard errors over users and over seeds. Entropy 0 is one route for everybody, 1 "
        "uses all alike."
    )
    return Table("What routing buys", note, header, rows)


def _fixed_choice(routing: Mapping[str, Any], protocol: str) -> str:
    """What could be shipped instead of the router: a choice per seed, each said once."""
    if routing["best_fixed"] is None:
        return NONE
    return "; ".join(
        dict.fromkeys(mixture_name(found) for found in routing["best_fixed"][protocol]["routes"])
    )


def point_table(document: Mapping[str, Any]) -> Table:
    """Accuracy and cost of each router at its operating points."""
    protocol, full = document["protocol"], document["full_paper_mflops"]
    rows = []
    for row in document["methods"]:
        for point in (row["routing"] or {}).get("points") or ():
            cost = point["paper_mflops"]["mean"]
            share = f"{point['largest_share']['mean']:.0%}"
            cells = [figure(point[protocol]["ndcg@10"]), mflops(cost), f"{cost / full:.0%}", share]
            rows.append([f"{row['title']}, {point['name']}", *cells])
    header = ["method, operating point", "NDCG@10", "MFLOPs", "of SASRec-full", "most used route"]
    note = (
        "One trained model at three prices of computation; every other table is at balanced. The prices were "
        "set on validation. MFLOPs by the paper's count, router included."
    )
    return Table("Operating points", note, header, rows)


def route_use(document: Mapping[str, Any]) -> Table:
    """Fig. 6 as a table."""
    rows = [
        [row["title"], use["entry"], f"{use['all']:.1%}", f"{use['tail']:.1%}"]
        for row in document["methods"]
        if row["routing"] is not None and row["name"] in HEADLINERS
        for use in row["routing"]["use"]
    ]
    note = (
        f"Share of {document['users']:,} users, and of the {document['tail_users']:,} tail users: fewer than "
        "half of their training items are among the most popular fifth of the catalogue. Mean over seeds."
    )
    return Table("Routes in use (Fig. 6)", note, ["method", "route", "all users", "tail users"], rows)


def pair_table(document: Mapping[str, Any]) -> Table:
    """Every method against SASRec-full and against the default CANet."""
    rows = []
    for name, title in [*FLOORS.items(), *((row["name"], row["title"]) for row in document["methods"])]:
        cells = [_pair_cell(pair_of(document, name, other)) for other in (FULL, "canet")]
        if any(cell != NONE for cell in cells):
            rows.append([title, *cells])
    note = (
        "NDCG@10 of the method minus that of the other, seeds averaged per user; mean and 95 % interval of "
        f"a paired bootstrap over {document['users']:,} users. * marks an interval without zero. All pairs "
        "are in compare.json."
    )
    return Table("Differences per user", note, ["method", "minus SASRec-full", "minus CANet (default)"], rows)


def _pair_cell(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return NONE
    star = " *" if differs(dict(pair)) else ""
    return f"{signed(pair['difference'])} ({signed(pair['low'])} to {signed(pair['high'])}){star}"


def twin_table(document: Mapping[str, Any]) -> Table:
    """Routes of a supernet beside plain SASRecs of their size."""
    titles = {row["name"]: row["title"] for row in document["methods"]}
    rows = []
    for twin in document["twins"]:
        both = (f"{twin[key]:.4f}" for key in ("route_ndcg@10", "twin_ndcg@10"))
        ratio = NONE if twin["ratio"] is None else f"{twin['ratio']:.3f}"
        rows.append([f"{titles[twin['name']]}, {twin['entry']}", titles[twin["twin"]], *both, ratio])
    header = ["route", "twin", "route, NDCG@10", "twin, NDCG@10", "ratio"]
    note = (
        "A fixed route on every user, beside a SASRec of that size trained alone. From a ratio of 1 on, one "
        "training serves for both."
    )
    return Table("One training against many", note, header, rows)


def run_table(document: Mapping[str, Any]) -> Table:
    """Every single run."""
    rows = []
    for row in document["methods"]:
        for run in row["runs"]:
            counts = [str(number) for number in (run["seed"], run["epochs"], run["best_epoch"] + 1)]
            ended = [run["stopped_by"], "yes" if run["converged"] else "no"]
            rows.append([row["title"], *counts, *ended, f"{run['training_seconds'] / 60:.1f}"])
    header = ["method", "seed", "epochs", "best epoch", "stopped by", "converged", "training, min"]
    return Table("Runs", f"Trained on {'; '.join(document['machines'])}.", header, rows)


def figure(found: Mapping[str, Any], digits: int = 4) -> str:
    """``mean ± se``; the mean alone for one seed."""
    mean = f"{found['mean']:.{digits}f}"
    return mean if found["se"] is None else f"{mean} ± {found['se']:.{digits}f}"


def first_line(reason: str) -> str:
    """The first line of a failure's reason, its full stop included if it has one."""
    return reason.splitlines()[0]


def _percent(change: float | None) -> str:
    return NONE if change is None else f"{change:+.1%}"


def introduction(document: Mapping[str, Any]) -> str:
    """What was compared on what, one paragraph."""
    counts, seeds = document["dataset"]["counts"], document["seeds"]
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions. "
        f"Leave-one-out, full catalogue, {document['users']:,} test users; epochs chosen on validation. "
        f"Preset {document['preset']}, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}, budget "
        f"{document['budget']:.0%} of SASRec-full."
    )
