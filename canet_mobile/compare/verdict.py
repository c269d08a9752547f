"""What a comparison amounts to, in plain sentences, whether it flatters CANet or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canet_mobile.compare.contrasts import FULL, HEADLINERS
from canet_mobile.compare.statistics import differs, mflops, signed
from canet_mobile.evaluate.routing import TOO_FEW, is_sure, pays

COLLAPSED_SHARE = 0.8


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Sentences on each CANet with results: cost, SASRec-full, its own size, routing; then on the runs."""
    titles = {row["name"]: row["title"] for row in document["methods"]}
    sentences = []
    for row in document["methods"]:
        if row["name"] not in HEADLINERS or row["metrics"] is None:
            continue
        sentences.append(_cost_sentence(document, row))
        same = next((entry for entry in document["same_cost"] if entry["name"] == row["name"]), None)
        if same is not None and same["sasrec"] != FULL:
            plain, cost = titles[same["sasrec"]], mflops(same["paper_mflops"])
            sentences.append(
                f"{row['title']}: against {plain} ({cost} MFLOPs), the plain model nearest in cost: "
                f"{difference(same['pair'])}."
            )
        if row["routing"] is not None:
            sentences.append(_routing_sentence(row, document["users"], document["protocol"]))
    return sentences + _run_sentences(document)


def difference(pair: Mapping[str, Any]) -> str:
    """A paired difference in words, with its interval."""
    interval = f"{signed(pair['low'])} to {signed(pair['high'])}"
    figures = f"{signed(pair['difference'])} NDCG@10 (95 % interval {interval})"
    if not differs(dict(pair)):
        return f"no difference beyond chance, {figures}"
    return f"{'better' if pair['difference'] > 0 else 'worse'}, {figures}"


def _cost_sentence(document: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    cost, share = row["paper_mflops"]["mean"], row["share_of_full"]
    text = f"{row['title']} costs {mflops(cost)} paper MFLOPs, {share:.0%} of SASRec-full"
    pairs = document["pairs"]
    pair = next((p for p in pairs if p["first"] == row["name"] and p["second"] == FULL), None)
    return f"{text}." if pair is None else f"{text}; against SASRec-full: {difference(pair)}."


def _routing_sentence(row: Mapping[str, Any], users: int, protocol: str) -> str:
    routing = row["routing"]
    used, share = routing["routes_used"]["mean"], routing["largest_share"]["mean"]
    text = f"{row['title']}: {used:g} routes in use, the most used holds {share:.0%} of the users, "
    text += f"normalised route entropy {routing['normalised_entropy']['mean']:.2f}"
    if share > COLLAPSED_SHARE:
        text += " (collapsed)"
    if routing["random"] is None or routing["best_fixed"] is None:
        return f"{text}."
    random, fixed = routing["random"][protocol]["difference"], routing["best_fixed"][protocol]["difference"]
    gaps = (
        f"{gap(random)} NDCG@10 against random routing with the same histogram, {gap(fixed)} against the "
        "best fixed choice at no more cost"
    )
    if pays(users, _as_gap(random), _as_gap(fixed)):
        return f"{text}. Routing pays: {gaps}."
    if not is_sure(_as_gap(random)):
        return f"{text}. Routing is not seen to pay: {gaps}."
    if not is_sure(_as_gap(fixed)):
        return f"{text}. The router knows its users, but a fixed choice serves them as well: {gaps}."
    return f"{text}. Routing is not seen to pay: {gaps}; {TOO_FEW}."


def gap(found: Mapping[str, Any]) -> str:
    """A difference with the larger of its two standard errors."""
    return f"{signed(found['mean'])} ± {_as_gap(found)['se']:.4f}"


def _as_gap(found: Mapping[str, Any]) -> dict[str, float]:
    """A difference over seeds as one over users: with the larger of the two standard errors."""
    return {"value": found["mean"], "se": max(found["se_users"], found["se"] or 0.0)}


def _run_sentences(document: Mapping[str, Any]) -> list[str]:
    runs = [run for row in document["methods"] for run in row["runs"]]
    cut = sum(not run["converged"] for run in runs)
    sentences = []
    if cut:
        sentences.append(
            f"{cut} of {len(runs)} runs ended before validation stood still: more epochs may change the "
            "order."
        )
    failed = [row["title"] for row in document["methods"] if row["failures"]]
    if failed:
        sentences.append(f"Failed, wholly or in part: {', '.join(failed)}.")
    if len(document["seeds"]) < 3:
        sentences.append(
            "Fewer than three seeds: how much training noise there is, this comparison cannot tell."
        )
    return sentences
