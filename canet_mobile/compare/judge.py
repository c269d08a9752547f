"""Judge one trained model, and keep what later differences need of every user."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from canet_mobile.data.dataset import Dataset
from canet_mobile.evaluate.evaluation import Report, evaluate_users
from canet_mobile.evaluate.metrics import Ranks
from canet_mobile.evaluate.references import REFERENCES
from canet_mobile.evaluate.scoring import PROTOCOLS
from canet_mobile.model.recommender import Model

BEYOND = 255  # ranks from here on are all the same to a top-20 metric
OF_ALL = ("users", *PROTOCOLS, "route")


def judge(
    model: Model, dataset: Dataset, limit: int | None, report: Report | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation document on test users, and what it says of each.

    Returns:
        A document of schemas/evaluation.schema.json, and arrays [n]: ``users`` int64; ``keep`` and
        ``exclude``, the target's rank under both protocols, uint8 (255 for any rank from 255 on); ``route``
        int16 (0 where there are no routes); where a router was compared with the references, NDCG@10 gained
        over each under each protocol, float32, by the names of :func:`gain_over`.
    """
    evaluation, found = evaluate_users(model, dataset, "test", limit, report=report)
    ranks = {protocol: compact(found.ranks.under(protocol)) for protocol in PROTOCOLS}
    gains = {
        gain_over(reference, protocol): values.astype(np.float32)
        for reference, each in found.gains.items()
        for protocol, values in each.items()
    }
    return evaluation, {"users": found.users, **ranks, "route": found.routes.astype(np.int16), **gains}


def gain_over(reference: str, protocol: str) -> str:
    """The array's name of what each user gains over one of the references."""
    return f"over_{reference}_{protocol}"


def is_complete(evaluation: Mapping[str, Any], arrays: Collection[str]) -> bool:
    """Whether what was kept of the users has every gain that the document tells the mean of.

    Before gains were kept, a judgement ended without them.
    """
    routing = evaluation["routing"] or {}
    told = [name for name in REFERENCES if routing.get(name) is not None]
    gains = [gain_over(name, protocol) for name in told for protocol in PROTOCOLS]
    return set(arrays).issuperset((*OF_ALL, *gains))


def compact(ranks: Ranks) -> np.ndarray[Any, Any]:
    """Ranks as one byte each, [n] uint8."""
    return np.minimum(ranks, BEYOND).astype(np.uint8)
