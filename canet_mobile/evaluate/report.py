"""An evaluation or a cost table as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from canet_mobile.evaluate.verdict import mixture_name
from canet_mobile.model.costs import routed_paper_mflops
from canet_mobile.model.space import Route

_SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
_OWN = {
    "sasrec": "SASRec",
    "fpmc": "FPMC",
    "gru4rec": "GRU4Rec",
    "nextitnet": "NextItNet",
    "skiprec": "SkipRec",
    "autodim": "AutoDim",
}
_HEADER = ["", *(f"{seen} {name}" for seen in ("keep", "excl") for name in ("N@10", "R@10", "N@20", "R@20"))]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by two spaces: the first to the left, the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def _row(name: str, both: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name, *(f"{both[protocol][key]:.4f}" for protocol in ("keep", "exclude") for key in _SHOWN)]


def evaluation_text(document: Mapping[str, Any]) -> str:
    """The whole evaluation document as text."""
    routing = document["routing"]
    own = _OWN.get(document["model"], "routed")
    rows = [_row(own, document["routed"])]
    rows += [_row(f"floor: {name}", both) for name, both in document["floors"].items()]
    notes = []
    if routing is not None and routing["random"] is not None:
        rows += [
            _row("best fixed, same cost", routing["best_fixed"]),
            _row("random, same histogram", routing["random"]),
        ]
        for protocol, fixed in routing["best_fixed"].items():
            name = mixture_name(fixed["routes"])
            notes.append(f"best fixed ({protocol}): {name}, {fixed['paper_mflops']:.3f} MFLOPs (paper)")
    rows += [_row(f"{n} users ({group['users']:,})", group) for n, group in document["groups"].items()]
    error = document["routed"]["keep"]["se_ndcg@10"], document["routed"]["exclude"]["se_ndcg@10"]
    head = (
        f"{document['model']} on {document['dataset']['name']}, {document['split']}: "
        f"{document['users']:,} users, {document['items']:,} items, input length {document['length']}"
    )
    parts = [
        head,
        table(_HEADER, rows),
        "keep: every item competes; excl: the user's whole history is hidden, a repeated target is a miss.\n"
        f"N = NDCG, R = Recall; standard error of N@10: keep {error[0]:.4f}, excl {error[1]:.4f}.",
        *(["\n".join(notes)] if notes else []),
        *([_routing_text(routing), _points_text(routing["operating_points"])] if routing is not None else []),
        _costs_text(document["costs"], routing is not None),
        *([_routes_text(document)] if document["routes"] and routing is not None else []),
        "\n".join(document["verdict"]),
    ]
    return "\n\n".join(parts)


def _routing_text(routing: Mapping[str, Any]) -> str:
    return (
        f"routes in use {routing['routes_used']} of {len(routing['histogram'])}, "
        f"largest share {routing['largest_share']:.1%}, "
        f"normalised entropy {routing['normalised_entropy']:.3f}"
    )


def _points_text(points: Sequence[Mapping[str, Any]]) -> str:
    header = ["operating point", "paper MF", "of full", "executed MF", "routes", "largest share"]
    header += ["keep N@10", "keep R@10", "excl N@10", "excl R@10"]
    rows = []
    for row in points:
        costs = f"{row['paper_mflops']:.3f}", f"{row['share_of_full']:.1%}", f"{row['executed_mflops']:.3f}"
        use = row["routes_used"], f"{row['largest_share']:.1%}"
        rows.append([row["name"], *costs, *use, *_short(row)])
    return table(header, rows)


def _short(both: Mapping[str, Any]) -> list[str]:
    return [f"{both[p][name]:.4f}" for p in ("keep", "exclude") for name in ("ndcg@10", "recall@10")]


def _costs_text(costs: Mapping[str, float], routed: bool) -> str:
    rows = []
    for kind in ("paper", "executed"):
        full = costs[f"sasrec_full_{kind}_mflops"]
        share = costs[f"{kind}_share_of_sasrec_full"]
        if share is None:  # a compared method has no exported graph
            continue
        row = [kind, f"{costs[f'{kind}_mflops']:.3f}", f"{full:.3f}", f"{share:.1%}"]
        rows.append([*row, f"{costs[f'router_{kind}_mflops']:.3f}"] if routed else row)
    header = ["MFLOPs a request", "this model", "SASRec 8x128", "share"]
    return table([*header, "of it router"] if routed else header, rows)


def _routes_text(document: Mapping[str, Any]) -> str:
    header = ["route", "users", "paper MF", "executed MF"]
    header += ["keep N@10", "keep R@10", "excl N@10", "excl R@10"]
    rows = []
    for row in document["routes"]:
        share = row["users"] / document["users"]
        costs = f"{row['paper_mflops']:.3f}", f"{row['executed_mflops']:.3f}"
        rows.append([row["entry"], f"{share:.1%}", *costs, *_short(row)])
    return table(header, rows)


def costs_text(document: Mapping[str, Any]) -> str:
    """A costs document as text: the table of the space, the router apart and the sum beside it."""
    items, length, routes = document["items"], document["length"], document["routes"]
    full = {kind: document[f"sasrec_full_{kind}_mflops"] for kind in ("paper", "executed")}
    router = {kind: document[f"router_{kind}_mflops"] for kind in full}
    rows = []
    for row in routes:
        route = Route(row["embedding"], row["hidden"], row["depth"])
        sums = {
            "paper": routed_paper_mflops(items, length, route, len(routes)),
            "executed": row["executed_mflops"] + router["executed"],
        }
        cells = [row["entry"], row["id"]]
        for kind, both in sums.items():
            cells += [f"{row[f'{kind}_mflops']:.3f}", f"{both:.3f}", f"{both / full[kind]:.1%}"]
        rows.append(cells)
    columns = [name for kind in full for name in (kind, "+ router", "of full")]
    return "\n".join(
        [
            f"MFLOPs a request = 2 x MACs / 10^6; {items:,} items, input length {length}",
            f"SASRec-full (8 blocks of 128): paper {full['paper']:.3f}, executed {full['executed']:.3f}",
            f"router: paper {router['paper']:.3f}, executed {router['executed']:.3f}",
            "",
            table(["route", "id", *columns], rows),
        ]
    )
