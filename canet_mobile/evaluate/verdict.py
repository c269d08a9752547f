"""What an evaluation amounts to, in plain sentences: above all, whether routing buys anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canet_mobile.evaluate.routing import TOO_FEW, is_better, is_sure, is_worse, pays
from canet_mobile.evaluate.scoring import PROTOCOLS

METRIC = "ndcg@10"
_SHOWN = "NDCG@10"


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Sentences on an evaluation, per seen protocol.

    Whether routing pays is decided by :func:`canet_mobile.evaluate.routing.pays`; a difference from a floor
    that lies within 2 standard errors is none.
    """
    sentences = []
    for protocol in PROTOCOLS:
        if document["routing"] is not None:
            sentences += _routing_sentences(document["routing"], document["users"], protocol)
        sentences.append(_floor_sentence(document["floors"]["markov"], protocol))
    return sentences


def _gap(gap: Mapping[str, float]) -> str:
    return f"{gap['value']:+.4f} ± {gap['se']:.4f} {_SHOWN}"


def mixture_name(routes: list[Mapping[str, Any]]) -> str:
    """``e64_h64_d2``, or ``30% e64_h64_d2 + 70% e128_h64_d4``."""
    if len(routes) == 1:
        return routes[0]["entry"]
    return " + ".join(f"{route['weight']:.0%} {route['entry']}" for route in routes)


def _routing_sentences(routing: Mapping[str, Any], users: int, protocol: str) -> list[str]:
    used = routing["routes_used"]
    if used == 1:
        return [f"seen={protocol}: routing buys nothing: the router sends every user to one route."]
    if routing["random"] is None:
        return []
    random = routing["random"][protocol]["difference"][METRIC]
    fixed = routing["best_fixed"][protocol]
    name, gap = mixture_name(fixed["routes"]), fixed["difference"][METRIC]
    against_random = f"{_gap(random)} against random routing with the same histogram"
    against_fixed = f"{_gap(gap)} against the best fixed choice at no more cost ({name})"
    if pays(users, random, gap):
        return [f"seen={protocol}: routing pays: {against_random}, {against_fixed}."]
    if is_sure(random) and is_sure(gap):
        return [f"seen={protocol}: routing is not seen to pay: {against_random}, {against_fixed}; {TOO_FEW}."]
    if is_sure(random):
        why = f"the router knows its users ({against_random}), yet it is {against_fixed}"
    elif is_sure(gap):
        why = f"{against_random}; it only beats the fixed choice ({against_fixed})"
    else:
        why = f"{against_random}, {against_fixed}"
    return [f"seen={protocol}: routing is not seen to pay: {why}."]


def _floor_sentence(markov: Mapping[str, Any], protocol: str) -> str:
    gap = markov["difference"][protocol][METRIC]
    if is_better(gap):
        return f"seen={protocol}: the model beats a first-order Markov chain: {_gap(gap)}."
    as_good = "better" if is_worse(gap) else "as good"
    return f"seen={protocol}: a first-order Markov chain, which needs no network, is {as_good}: {_gap(gap)}."
