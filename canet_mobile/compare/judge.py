"""Judge one trained model, and keep what later differences need of every user."""

from __future__ import annotations

from typing import Any

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.evaluate.evaluation import Report, evaluate_model
from canet_mobile.evaluate.metrics import Ranks
from canet_mobile.evaluate.scoring import PROTOCOLS, rank_model, route_users
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model

BEYOND = 255  # ranks from here on are all the same to a top-20 metric


def judge(
    model: Model, dataset: Dataset, limit: int | None, report: Report | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation document on test users, and per user the rank under both protocols and the route.

    Returns:
        A document of schemas/evaluation.schema.json, and arrays [n]: ``users`` int64, ``keep`` and
        ``exclude`` uint8 (255 for any rank from 255 on), ``route`` int16 (0 where there are no routes).
    """
    evaluation = evaluate_model(model, dataset, "test", limit, report=report)
    queries = held_out(dataset, "test", limit=limit)
    ranks = rank_model(model, queries)
    routes = route_users(model, queries) if isinstance(model, Canet) else np.zeros(len(queries))
    users = {protocol: compact(ranks.under(protocol)) for protocol in PROTOCOLS}
    return evaluation, {"users": queries.users, **users, "route": routes.astype(np.int16)}


def compact(ranks: Ranks) -> np.ndarray[Any, Any]:
    """Ranks as one byte each, [n] uint8."""
    return np.minimum(ranks, BEYOND).astype(np.uint8)
