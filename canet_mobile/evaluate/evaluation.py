"""Judge a trained model: accuracy, floors, routing references, head and tail, costs, in one document.

The document is schemas/evaluation.schema.json; every command that quotes an accuracy takes it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from canet_mobile.evaluate.metrics import Values, metric
from canet_mobile.evaluate.points import operating_points
from canet_mobile.evaluate.references import Gains, against_references, gaps
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
Routes = Literal["all", "routed"]
Report = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class PerUser:
    """What an evaluation knows of every judged user, in one order.

    Args:
        users: their numbers, [n] int64.
        ranks: of the target as routed, [n].
        routes: ids, [n] int64; zeros where there are no routes.
        gains: NDCG@10 as routed minus that of ``random`` and ``best_fixed``, as the document's ``routing``
            has them on average; empty where it has not.
    """

    users: routing.Ints
    ranks: TargetRanks
    routes: routing.Ints
    gains: Gains = field(default_factory=dict)


def evaluate_model(
    model: Model,
    dataset: Dataset,
    split: Split = "test",
    limit: int | None = None,
    *,
    routes: Routes = "all",
    report: Report | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a split under both seen protocols: :func:`evaluate_users` without the users."""
    return evaluate_users(model, dataset, split, limit, routes=routes, report=report)[0]


def evaluate_users(
    model: Model,
    dataset: Dataset,
    split: Split = "test",
    limit: int | None = None,
    *,
    routes: Routes = "all",
    report: Report | None = None,
) -> tuple[dict[str, Any], PerUser]:
    """Evaluate a model on a split under both seen protocols, and tell of every user.

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
        A document of schemas/evaluation.schema.json with ``run`` None, and what it says of each user.

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
        per_user, judged = _judge_canet(model, queries, split, on_validation, routes == "all", report)
    else:
        per_user, judged = _judge_method(model, queries, report)
    routed = per_user.ranks
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
    return document | {"verdict": verdict(document)}, per_user


def _judge_canet(
    canet: Canet,
    queries: HeldOut,
    split: Split,
    on_validation: HeldOut | None,
    all_routes: bool,
    report: Report | None,
) -> tuple[PerUser, dict[str, Any]]:
    """Users of a CANet or SASRec as routed, and what its document says of routes and costs."""
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
    routing_found: dict[str, Any] | None = None
    gains: Gains = {}
    if canet.router is not None:
        routing_found, gains = against_references(route_ids, routed, every, chooser, spent)
        known = route_ids, routed
        routing_found["operating_points"] = operating_points(canet, queries, known, every, spent, counter)
    return PerUser(queries.users, routed, route_ids, gains), {
        "model": "sasrec" if canet.router is None else "canet",
        "space": canet.space.to_json(),
        "costs": spent.summary(route_ids),
        "routing": routing_found,
        "routes": None if every is None else _route_rows(spent, route_ids, every),
    }


def _judge_method(
    model: Recommender, queries: HeldOut, report: Report | None
) -> tuple[PerUser, dict[str, Any]]:
    """Users of a compared method, and what its document says of costs."""
    routed = rank_model(model, queries, _stage("ranking", len(queries), report))
    spent = method_costs(model, queries)
    per_user = PerUser(queries.users, routed, np.zeros(len(queries), np.int64))
    return per_user, {"model": model.name, "space": None, "costs": spent, "routing": None, "routes": None}


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


def _difference(first: TargetRanks, second: TargetRanks) -> dict[str, dict[str, dict[str, float]]]:
    def values_under(protocol: str) -> Callable[[str], Values]:
        return lambda name: metric(second.under(protocol), name)

    return {protocol: gaps(first.under(protocol), values_under(protocol)) for protocol in PROTOCOLS}


def _groups(dataset: Dataset, queries: HeldOut, routed: TargetRanks) -> dict[str, Any]:
    head = head_users(dataset)[queries.users]
    return {
        name: {"users": int(members.sum())} | routed[members].summaries()
        for name, members in (("head", head), ("tail", ~head))
    }


def _route_rows(spent: Costs, route_ids: routing.Ints, every: TargetRanks) -> list[dict[str, Any]]:
    counts = routing.histogram(route_ids, len(spent.rows))
    return [
        row | {"users": int(users)} | every[number].summaries()
        for number, (row, users) in enumerate(zip(spent.rows, counts, strict=True))
    ]
