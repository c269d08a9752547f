"""From records to one document (schemas/comparison.schema.json): every table and figure is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canet_mobile import __version__
from canet_mobile.compare.contrasts import JUDGED_BY, improvement, pairs, same_cost, twins
from canet_mobile.compare.judge import compact, gain_over
from canet_mobile.compare.methods import Method
from canet_mobile.compare.record import converged
from canet_mobile.compare.runs import Outcome
from canet_mobile.compare.statistics import over_seeds
from canet_mobile.compare.verdict import verdict
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import head_users
from canet_mobile.data.split import held_out
from canet_mobile.evaluate.floors import count_training, markov_ranks, popularity_ranks
from canet_mobile.evaluate.metrics import METRICS, Values, metric, standard_error
from canet_mobile.evaluate.references import REFERENCES
from canet_mobile.evaluate.scoring import PROTOCOLS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.routing.budget import full_mflops
from canet_mobile.run.config import TrainConfig

SCHEMA_VERSION = 1
FLOORS = {"popularity": "popularity", "markov": "first-order Markov"}

Document = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for; ``base`` is the configuration that all its methods share."""

    preset: str
    settings: Mapping[str, Any]
    base: TrainConfig
    seeds: Sequence[int]
    limit: int | None


def build(
    settings: Settings, dataset: Dataset, methods: Sequence[Method], outcomes: Sequence[Outcome]
) -> Document:
    """The document of a comparison.

    Args:
        settings: what was asked for.
        dataset: the data set.
        methods: in the order of the tables.
        outcomes: one per method and seed, in any order.
    """
    done = [outcome.record for outcome in outcomes if outcome.record is not None]
    protocol = done[0]["config"]["seen"] if done else "keep"
    full = full_mflops(settings.base, dataset.num_items)
    floors, floor_users = _floors(dataset, settings.limit)
    tail = ~head_users(dataset)[held_out(dataset, "test", limit=settings.limit).users]
    rows, per_user = [], dict(floor_users)
    for method in methods:
        own = [outcome for outcome in outcomes if outcome.job.method == method.name]
        finished = [outcome for outcome in own if outcome.record is not None]
        users = [outcome.job.users() for outcome in finished]
        rows.append(_row(method, own, users, tail, full))
        if users:
            per_user[method.name] = {name: _mean_metric(users, name) for name in PROTOCOLS}
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "created_by": f"canet-mobile {__version__}",
        "dataset": {
            "name": dataset.name,
            "content_hash": dataset.content_hash,
            "counts": dataset.manifest["counts"],
        },
        "preset": settings.preset,
        "settings": dict(settings.settings),
        "budget": settings.base.budget,
        "seeds": list(settings.seeds),
        "limit": settings.limit,
        "users": len(tail),
        "tail_users": int(tail.sum()),
        "protocol": protocol,
        "machines": sorted({_machine(record["machine"]) for record in done}),
        "full_paper_mflops": full,
        "floors": floors,
        "methods": rows,
        "pairs": pairs({name: values[protocol] for name, values in per_user.items()}),
    }
    document["improvement"] = improvement(document)
    document["twins"] = twins(document, outcomes)
    document["same_cost"] = same_cost(document)
    return document | {"verdict": verdict(document)}


def _machine(machine: Mapping[str, Any]) -> str:
    processor = machine.get("gpu") or machine.get("cpu") or machine.get("processor") or "unknown processor"
    return f"{processor}, {machine.get('cores', '?')} cores, PyTorch {machine.get('torch', '?')}"


def _floors(dataset: Dataset, limit: int | None) -> tuple[dict[str, Any], dict[str, dict[str, Values]]]:
    queries, counts = held_out(dataset, "test", limit=limit), count_training(dataset)
    found = {"popularity": popularity_ranks(counts, queries), "markov": markov_ranks(counts, queries)}
    rows, users = {}, {}
    for name, ranks in found.items():
        per_seed = [{protocol: compact(ranks.under(protocol)) for protocol in PROTOCOLS}]
        rows[name] = {p: {m: float(_mean_metric(per_seed, p, m).mean()) for m in METRICS} for p in PROTOCOLS}
        users[name] = {protocol: _mean_metric(per_seed, protocol) for protocol in PROTOCOLS}
    return rows, users


def _mean_metric(per_seed: Sequence[Mapping[str, Any]], protocol: str, name: str = JUDGED_BY) -> Values:
    """A metric per user, averaged over seeds: [n] float64."""
    return np.mean([metric(users[protocol].astype(np.int64), name) for users in per_seed], axis=0)


def _row(
    method: Method, outcomes: Sequence[Outcome], users: Sequence[Mapping[str, Any]], tail: Any, full: float
) -> dict[str, Any]:
    done = [(outcome, outcome.record) for outcome in outcomes if outcome.record is not None]
    failures = [
        {"seed": outcome.job.config.seed, "reason": outcome.reason or "unknown"}
        for outcome in outcomes
        if outcome.record is None
    ]
    row: dict[str, Any] = {
        "name": method.name,
        "title": method.title,
        "group": method.group,
        "about": method.about,
        "status": "ok" if not failures else "partial" if done else "failed",
        "failures": failures,
        "runs": [_run(outcome, record) for outcome, record in done],
        "metrics": None,
        "paper_mflops": None,
        "executed_mflops": None,
        "share_of_full": None,
        "routing": None,
    }
    if not done:
        return row
    evaluations = [record["evaluation"] for _, record in done]
    costs = [evaluation["costs"] for evaluation in evaluations]
    paper = over_seeds([cost["paper_mflops"] for cost in costs])
    executed = [cost.get("executed_mflops") for cost in costs]
    return row | {
        "metrics": {
            protocol: {
                name: over_seeds([evaluation["routed"][protocol][name] for evaluation in evaluations])
                for name in METRICS
            }
            for protocol in PROTOCOLS
        },
        "paper_mflops": paper,
        "executed_mflops": None if None in executed else over_seeds(executed),
        "share_of_full": paper["mean"] / full,
        "routing": _routing(evaluations, users, tail),
    }


def _run(outcome: Outcome, record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("seed", "epochs", "best_epoch", "stopped_by", "training_seconds")
    return {name: record[name] for name in names} | {
        "converged": converged(record),
        "directory": outcome.job.directory.name,
    }


def _routing(
    evaluations: Sequence[Mapping[str, Any]], users: Sequence[Mapping[str, Any]], tail: Any
) -> dict[str, Any] | None:
    """What the router did, seeds averaged; None for a model that does not route between submodels."""
    routings = [evaluation["routing"] for evaluation in evaluations]
    if None in routings or evaluations[0].get("space") is None:
        return None
    space = RoutingSpace(**{key: tuple(values) for key, values in evaluations[0]["space"].items()})
    result: dict[str, Any] = {
        name: over_seeds([routing[name] for routing in routings])
        for name in ("routes_used", "normalised_entropy", "largest_share")
    }
    shares = {
        kind: np.mean([_shares(seed["route"][members], len(space)) for seed in users], axis=0)
        for kind, members in (("all", np.full(len(tail), True)), ("tail", tail))
    }
    result["use"] = [
        {"entry": route.entry, "all": float(everybody), "tail": float(of_tail)}
        for route, everybody, of_tail in zip(space, shares["all"], shares["tail"], strict=True)
        if everybody or of_tail
    ]
    for name in REFERENCES:
        found = [routing[name] for routing in routings]
        result[name] = None
        if None not in found:
            gains = {p: [seed[gain_over(name, p)] for seed in users] for p in PROTOCOLS}
            result[name] = {p: _reference([seed[p] for seed in found], gains[p]) for p in PROTOCOLS}
    return result | {"points": _points(routings), "largest": _largest(evaluations)}


def _points(routings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Accuracy and cost at each operating point, seeds averaged; None where an older record does not tell."""
    found = [routing.get("operating_points") for routing in routings]
    if None in found:
        return None
    return [
        {
            "name": point[0]["name"],
            "paper_mflops": over_seeds([seed["paper_mflops"] for seed in point]),
            "largest_share": over_seeds([seed["largest_share"] for seed in point]),
            **{p: {JUDGED_BY: over_seeds([seed[p][JUDGED_BY] for seed in point])} for p in PROTOCOLS},
        }
        for point in zip(*found, strict=True)
    ]


def _shares(route_ids: Any, routes: int) -> Any:
    return np.bincount(route_ids, minlength=routes) / max(1, len(route_ids))


def _reference(each: Sequence[Mapping[str, Any]], gains: Sequence[Values]) -> dict[str, Any]:
    """Routed against a reference: mean difference over seeds, standard errors over users and over seeds.

    Seeds share their users, whose gains need not be alike: the error is that of each user's mean over seeds.
    """
    difference = over_seeds([reference["difference"][JUDGED_BY]["value"] for reference in each])
    difference["se_users"] = standard_error(np.mean(gains, axis=0, dtype=np.float64))
    result: dict[str, Any] = {
        JUDGED_BY: over_seeds([reference[JUDGED_BY] for reference in each]),
        "difference": difference,
    }
    if "paper_mflops" in each[0]:
        result["paper_mflops"] = over_seeds([reference["paper_mflops"] for reference in each])
        result["routes"] = [reference["routes"] for reference in each]
    return result


def _largest(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The supernet's largest route on every user; None when only the routed pass was made."""
    if evaluations[0]["routes"] is None:
        return None
    routes = [evaluation["routes"][-1] for evaluation in evaluations]
    return {
        "entry": routes[0]["entry"],
        "paper_mflops": routes[0]["paper_mflops"],
        **{p: {JUDGED_BY: over_seeds([route[p][JUDGED_BY] for route in routes])} for p in PROTOCOLS},
    }
