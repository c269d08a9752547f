"""The router after the loop: fitted where the recipe leaves that to the end, its points set, judged."""

from __future__ import annotations

from typing import Any

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import HeldOut, Windows
from canet_mobile.model.canet import Canet
from canet_mobile.model.recommender import Model
from canet_mobile.routing.advice import advise, divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.distil import fit_router
from canet_mobile.routing.points import set_points
from canet_mobile.routing.validate import budget_warning, validate_routed, warnings_of
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.reporter import Reporter


def settle_routing(
    model: Model,
    config: TrainConfig,
    dataset: Dataset,
    windows: Windows,
    queries: HeldOut,
    reporter: Reporter,
    *,
    distil: bool | None = None,
) -> tuple[Model, dict[str, Any] | None]:
    """Fit the router where the recipe leaves that to the end, and validate what will be shipped.

    Args:
        model: with the best epoch's weights.
        config: of the run.
        dataset: what it was trained on.
        windows: training windows, for the router's labels.
        queries: validation queries.
        reporter: told of the stage and of warnings.
        distil: fit the router; None leaves that to the recipe (the paper's has trained its own).

    Returns:
        The finished model, and how its users are routed, for the manifest; None for one that does not route.
    """
    if not isinstance(model, Canet):
        if model.rule is None:
            return model, None
        found = validate_routed(model, config, queries, fitted=True)
        return model, {"rule": model.rule, "validation": found.to_json()}
    if model.router is None:
        return model, None
    routing: dict[str, Any] = {"rule": "joint Gumbel-softmax (paper Eq. 5-9)"}
    spending = spending_of(config, model.supernet.config.items)
    choosing, others = divide_users(dataset)
    balanced: float | None = None
    distil = config.recipe != "paper" if distil is None else distil
    if distil:
        reporter.note("fitting the router to how unsure the smaller route is at every position")
        model, routing, ladder = fit_router(model, config, choosing, others, windows, spending, reporter)
        balanced = ladder.cost
    model, routing["operating_points"] = set_points(model, config, choosing, spending, balanced)
    if distil:
        routing["advice"] = advise(model, config, others, routing.pop("best_fixed"))
    final = validate_routed(model, config, queries, fitted=True)
    routing["validation"] = final.to_json()
    for warning in budget_warning(routing, config) if distil else warnings_of(final, config, None):
        reporter.note(f"warning: {warning}")
    return model, routing
