"""Judge a trained model: accuracy, floors, routing references, head and tail, costs, in one document.

The document is schemas/evaluation.schema.json; every command that quotes an accuracy takes it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from canet_mobile import __version__
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.popularity import head_users
from canet_mobile.data.split import HeldOut, Split, held_out
from canet_mobile.errors import CanetError
from canet_mobile.evaluate import routing
from canet_mobile.evaluate.floors import count_training, markov_ranks, popularity_ranks
from canet_mobile.evaluate.metrics import METRICS, Ranks, Values, metric
from canet_mobile.evaluate.points import operating_points
from canet_mobile.evaluate.scoring import (
    PROTOCOLS,
    TargetRanks,
    rank_all_routes,
    rank_model,
    rank_targets,
    route_users,
)
from canet_mobile.evaluate.spent import Costs, method_costs
from canet_mobile.evaluate.verdict import verdict
from canet_mobile.files import write_json
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model, Recommender
from canet_mobile.schema import validate

SCHEMA_VERSION = 1
CHOSEN_BY = "ndcg@10"
Routes = Literal["all", "routed"]
Report = Callable[[str, int, int], None]  # stage, done, total


def evaluate_model(
    model: Model,
    dataset: Dataset,
    split: Split = "test",
    limit: int | None = None,
    *,
    routes: Routes = "all",
    report: Report | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a split under both seen protocols.

    Args:
        model: in eval mode. A CANet without a router and with one route is judged as a plain SASRec; a
            compared method has neither routes nor a space.
        dataset: the data set it was trained on.
        split: ``test`` or ``validation``.
        limit: judge this many users, evenly spaced, instead of all.
        routes: ``all`` also ranks with every route, on the split and on validation, which the per-route
            table, the best fixed route and random routing need; ``routed`` ranks once.
        report: called with a stage and how much of it is done.

    Returns:
        A document of schemas/evaluation.schema.json with ``run`` None.

    Raises:
        CanetError: the model and the data set have different items.
    """
    size = model.supernet.config if isinstance(model, Canet) else model
    if size.items != dataset.num_items:
        raise CanetError(
            f"the model has {size.items} items, the data set {dataset.num_items}",
            where=dataset.directory,
            fix="evaluate on the data set the model was trained on",
        )
    queries = held_out(dataset, split, limit=limit)
    if isinstance(model, Canet):
        on_validation = held_out(dataset, "validation", limit=limit) if split != "validation" else None
        routed, judged = _judge_canet(model, queries, split, on_validation, routes == "all", report)
    else:
        routed, judged = _judge_method(model, queries, report)
    floors = count_training(dataset)
    floor_ranks = {
        "popularity": popularity_ranks(floors, queries),
        "markov": markov_ranks(floors, queries),
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "evaluation",
        "created_by": f"canet-mobile {__version__}",
        "run": None,
        "dataset": {"name": dataset.name, "content_hash": dataset.content_hash},
        "split": split,
        "users": len(queries),
        "limit": limit,
        "items": size.items,
        "length": size.length,
        "routed": routed.summaries(),
        "floors": {
            name: ranks.summaries() | {"difference": _difference(routed, ranks)}
            for name, ranks in floor_ranks.items()
        },
        "groups": _groups(dataset, queries, routed),
        **judged,
    }
    return document | {"verdict": verdict(document)}


def _judge_canet(
    canet: Canet,
    queries: HeldOut,
    split: Split,
    on_validation: HeldOut | None,
    all_routes: bool,
    report: Report | None,
) -> tuple[TargetRanks, dict[str, Any]]:
    """Ranks of a CANet or SASRec as routed, and what its document says of routes and costs."""
    counter = partial(_stage, total=len(queries), report=report)
    route_ids = route_users(canet, queries)
    every = _rank_every(canet, queries, f"{split}: every route", report) if all_routes else None
    if every is None:
        routed = rank_targets(canet.supernet, queries, route_ids, counter("ranking"))
    else:
        routed = every[route_ids, np.arange(len(queries))]
    chooser = every
    if every is not None and on_validation is not None and len(canet.space) > 1:
        chooser = _rank_every(canet, on_validation, "validation: every route", report)
    spent = Costs.of(canet)
    routing_found = None
    if canet.router is not None:
        routing_found = _routing(route_ids, routed, every, chooser, spent)
        known = route_ids, routed
        routing_found["operating_points"] = operating_points(canet, queries, known, every, spent, counter)
    return routed, {
        "model": "sasrec" if canet.router is None else "canet",
        "space": canet.space.to_json(),
        "costs": spent.summary(route_ids),
        "routing": routing_found,
        "routes": None if every is None else _route_rows(spent, route_ids, every),
    }


def _judge_method(
    model: Recommender, queries: HeldOut, report: Report | None
) -> tuple[TargetRanks, dict[str, Any]]:
    """Ranks of a compared method, and what its document says of costs."""
    routed = rank_model(model, queries, _stage("ranking", len(queries), report))
    spent = method_costs(model, queries)
    return routed, {"model": model.name, "space": None, "costs": spent, "routing": None, "routes": None}


def save_evaluation(directory: Path, document: dict[str, Any]) -> Path | None:
    """Check a document and write it as ``evaluation-<split>.json`` into a run directory.

    Only a whole evaluation (every user, and every route where there are routes) is kept there, so that a
    quick look never replaces it.

    Returns:
        The file, or None when the evaluation is partial.

    Raises:
        CanetError: the document is not of its schema, or the directory cannot be written.
    """
    path = directory / f"evaluation-{document['split']}.json"
    validate(document, "evaluation", where=path)
    routes_left_out = document["space"] is not None and document["routes"] is None
    if document["limit"] is not None or routes_left_out:
        return None
    write_json(path, document)
    return path


def _stage(name: str, total: int, report: Report | None) -> Callable[[int], None]:
    done = 0

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        if report is not None:
            report(name, done, total)

    return step


def _rank_every(canet: Canet, queries: HeldOut, name: str, report: Report | None) -> TargetRanks:
    step = _stage(name, len(queries) * len(canet.space), report)
    return rank_all_routes(canet.supernet, queries, step)


def _gaps(first: Ranks, second: Callable[[str], Values]) -> dict[str, dict[str, float]]:
    """Paired difference of every metric: ranks against values per user of a named metric."""
    return {name: routing.paired(metric(first, name), second(name)) for name in METRICS}


def _difference(first: TargetRanks, second: TargetRanks) -> dict[str, dict[str, dict[str, float]]]:
    def values_under(protocol: str) -> Callable[[str], Values]:
        return lambda name: metric(second.under(protocol), name)

    return {protocol: _gaps(first.under(protocol), values_under(protocol)) for protocol in PROTOCOLS}


def _groups(dataset: Dataset, queries: HeldOut, routed: TargetRanks) -> dict[str, Any]:
    head = head_users(dataset)[queries.users]
    return {
        name: {"users": int(members.sum())} | routed[members].summaries()
        for name, members in (("head", head), ("tail", ~head))
    }


def _routing(
    route_ids: routing.Ints,
    routed: TargetRanks,
    every: TargetRanks | None,
    chooser: TargetRanks | None,
    spent: Costs,
) -> dict[str, Any]:
    counts = routing.histogram(route_ids, len(spent.rows))
    result: dict[str, Any] = {
        "histogram": counts.tolist(),
        "routes_used": int((counts > 0).sum()),
        "largest_share": float(counts.max() / counts.sum()),
        "normalised_entropy": routing.normalised_entropy(counts),
        "chosen_by": CHOSEN_BY,
        "random": None,
        "best_fixed": None,
    }
    if every is not None and chooser is not None:
        budget = spent.average(route_ids)[0]
        result["random"], result["best_fixed"] = {}, {}
        for protocol in PROTOCOLS:
            own, table = routed.under(protocol), every.under(protocol)
            values = {name: metric(table, name) for name in METRICS}
            drawn = {name: routing.random_routing(per_route, counts) for name, per_route in values.items()}
            result["random"][protocol] = _means(drawn) | {"difference": _gaps(own, drawn.__getitem__)}
            quality = metric(chooser.under(protocol), CHOSEN_BY).mean(1)
            result["best_fixed"][protocol] = _best_fixed(own, values, quality, budget, spent)
    return result


def _best_fixed(
    own: Ranks, values: dict[str, Values], quality: Values, budget: float, spent: Costs
) -> dict[str, Any]:
    paper = spent.column("paper_mflops")
    mixture = routing.best_fixed(paper, quality, budget)
    expected = {name: mixture.expected(per_route) for name, per_route in values.items()}
    return {
        "routes": [
            {"id": route, "entry": spent.rows[route]["entry"], "weight": weight}
            for route, weight in mixture.weights().items()
        ],
        "paper_mflops": round(float(mixture.expected(paper)), 3),
        "validation": float(mixture.expected(quality)),
        **_means(expected),
        "difference": _gaps(own, expected.__getitem__),
    }


def _means(values: dict[str, Values]) -> dict[str, float]:
    return {name: float(per_user.mean()) for name, per_user in values.items()}


def _route_rows(spent: Costs, route_ids: routing.Ints, every: TargetRanks) -> list[dict[str, Any]]:
    counts = routing.histogram(route_ids, len(spent.rows))
    return [
        row | {"users": int(users)} | every[number].summaries()
        for number, (row, users) in enumerate(zip(spent.rows, counts, strict=True))
    ]
