"""Methods against one another: paired differences, improvement, twins, the plain model of the same cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canet_mobile.compare.methods import is_plain_sasrec
from canet_mobile.compare.runs import Outcome
from canet_mobile.compare.statistics import paired_bootstrap
from canet_mobile.evaluate.metrics import Values
from canet_mobile.model.space import RoutingSpace
from canet_mobile.ties import best

JUDGED_BY = "ndcg@10"
FULL = "sasrec-full"
HEADLINERS = ("canet-paper", "canet")


def row_of(document: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The line of a method that has results."""
    rows = (row for row in document["methods"] if row["name"] == name and row["metrics"] is not None)
    return next(rows, None)


def pair_of(document: Mapping[str, Any], first: str, second: str) -> dict[str, Any] | None:
    """The paired difference of two methods, first minus second."""
    for pair in document["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return pair
        if (pair["first"], pair["second"]) == (second, first):
            turned = {"difference": -pair["difference"], "low": -pair["high"], "high": -pair["low"]}
            return pair | turned | {"first": first, "second": second}
    return None


def pairs(per_user: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Every two methods: floors first, then the order of the tables; the later one minus the earlier one."""
    names = list(per_user)
    return [
        {"first": later, "second": earlier, **paired_bootstrap(per_user[later], per_user[earlier])}
        for number, earlier in enumerate(names)
        for later in names[number + 1 :]
    ]


def improvement(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Relative change of each CANet over SASRec-full, as in the last row of Table III."""
    full, protocol = row_of(document, FULL), document["protocol"]
    if full is None:
        return []
    rows = (row_of(document, name) for name in HEADLINERS)
    return [
        {"name": row["name"], "paper_mflops": _change(row["paper_mflops"], full["paper_mflops"])}
        | {
            name: _change(row["metrics"][protocol][name], full["metrics"][protocol][name])
            for name in ("ndcg@10", "recall@10")
        }
        for row in rows
        if row is not None
    ]


def _change(new: Mapping[str, Any], old: Mapping[str, Any]) -> float | None:
    return new["mean"] / old["mean"] - 1 if old["mean"] else None


def twins(document: Mapping[str, Any], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Routes of a supernet beside the plain SASRec of their size, each averaged over its seeds."""
    protocol, found = document["protocol"], []
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    plain: dict[str, dict[str, list[float]]] = {}  # entry -> method -> NDCG@10 of each seed
    for record in records:
        if is_plain_sasrec(record["experiment"]):
            space = {key: tuple(record["config"][key]) for key in ("embedding", "hidden", "depth")}
            found10 = record["evaluation"]["routed"][protocol][JUDGED_BY]
            sizes = plain.setdefault(RoutingSpace(**space).smallest.entry, {})
            sizes.setdefault(record["experiment"], []).append(found10)
    for name in HEADLINERS:
        tables = [r["evaluation"]["routes"] for r in records if r["experiment"] == name]
        if not tables or None in tables:
            continue
        for number, route in enumerate(tables[0]):
            for twin, values in plain.get(route["entry"], {}).items():
                own = float(np.mean([table[number][protocol][JUDGED_BY] for table in tables]))
                alone = float(np.mean(values))
                ratio = own / alone if alone else None
                found.append(
                    {"name": name, "entry": route["entry"], "twin": twin}
                    | {"route_ndcg@10": own, "twin_ndcg@10": alone, "ratio": ratio}
                )
    return found


def same_cost(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each CANet the plain SASRec nearest in paper MFLOPs, and the paired difference to it."""
    plain = [row for row in document["methods"] if is_plain_sasrec(row["name"]) and row["metrics"]]
    found = []
    for name in HEADLINERS:
        row = row_of(document, name)
        if row is None or not plain:
            continue
        near = _nearest_in_cost(plain, row["paper_mflops"]["mean"])
        pair = pair_of(document, name, near["name"])
        found.append(
            {"name": name, "sasrec": near["name"], "paper_mflops": near["paper_mflops"]["mean"], "pair": pair}
        )
    return found


def _nearest_in_cost(rows: Sequence[dict[str, Any]], cost: float) -> dict[str, Any]:
    """The row whose cost is the smallest multiple, or part, of a cost; of two as near, the cheaper one."""
    costs = {row["name"]: row["paper_mflops"]["mean"] for row in rows}
    return best(
        rows, lambda row: -abs(math.log(costs[row["name"]] / cost)), lambda row: -float(costs[row["name"]])
    )
