"""Polishing: after the epochs for all routes, some for the two that will serve, each with its own users.

A supernet that trains 36 routes together has little time for each. Two of them serve: the ladder's
(:mod:`canet_mobile.routing.ladder`). They go on learning, the small route from the histories of users who
will be served by it, the large one from those of the others, both from the targets and from what the largest
route knew before. On some data that makes either better for its users, on most it does not (docs/training.md,
"Polishing"). So validation users decide whether it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.neighbours import find_neighbours
from canet_mobile.data.split import HeldOut, held_out
from canet_mobile.evaluate.metrics import Values, ndcg
from canet_mobile.evaluate.routing import is_better, is_worse, paired
from canet_mobile.evaluate.scoring import rank_targets
from canet_mobile.model.canet import Canet
from canet_mobile.model.losses import sandwich_loss
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import Supernet
from canet_mobile.routing.advice import divide_users
from canet_mobile.routing.budget import spending_of
from canet_mobile.routing.candidates import doubts, judge
from canet_mobile.routing.ladder import Ladder, choose_ladder, choose_share, escalated, order_of
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.reporter import Reporter
from canet_mobile.train.objectives import Tutor, asks_neighbours, follow
from canet_mobile.train.schedule import epoch_batches, epoch_windows, learning_rate

SURE = 2.0  # standard errors that the choosing users must gain


class StopAsked(Exception):
    """The user wants to stop; nothing of the polishing is left. Its text says where it was."""


@dataclass(frozen=True)
class Served:
    """Who is served by which of the ladder's routes.

    Args:
        small, large: the two routes.
        up: whether a user takes the large one, by number of the history, [histories].
    """

    small: Route
    large: Route
    up: NDArray[np.bool_]

    def parts(self, users: NDArray[np.int64]) -> list[tuple[Route, NDArray[np.bool_]]]:
        """Each route, and which of these users it serves."""
        up = self.up[users]
        return [(route, rows) for route, rows in ((self.small, ~up), (self.large, up)) if rows.any()]


def polishes(config: TrainConfig, stopped_by: str | None) -> bool:
    """Whether a run ends with it: not one that the clock stopped, nor one that trains its router itself."""
    distilled = config.model == "canet" and config.recipe in ("sandwich", "rows")
    return distilled and config.polish > 0 and stopped_by != "max_minutes"


def polish(
    canet: Canet, config: TrainConfig, dataset: Dataset, reporter: Reporter, stop: Callable[[], bool]
) -> tuple[Canet, dict[str, Any]]:
    """Train the routes that will serve for ``config.polish`` more epochs, and keep that if it pays.

    The first epochs, at the highest rates, may cost what the last ones bring back. But where validation users
    have lost more than a standard error, the epochs that are left are spared.

    Args:
        canet: the best epoch's weights; they are left as they are.
        config: of the run.
        dataset: what it was trained on.
        reporter: told of the stage.
        stop: asked after every step whether to stop.

    Returns:
        The model, with a supernet of its own if polishing pays, and a summary for the run's manifest.

    Raises:
        StopAsked: ``stop`` said so.
    """
    reporter.note("polishing the routes that will serve")
    net = canet.supernet.eval()
    choosing, _ = divide_users(dataset)
    ladder, served = _serve(net, config, dataset, choosing, reporter)
    before = _quality(net, config, choosing, served)
    summary = {
        "small": served.small.entry,
        "large": served.large.entry,
        "first": ladder.first,
        "escalated_share": ladder.share,
        "users": len(choosing),
    }
    polished, gap, epochs = net, {"value": 0.0, "se": 0.0}, 0
    for polished in _epochs(deepcopy(net), net, config, dataset, served, reporter, stop):
        epochs += 1
        gap = paired(_quality(polished, config, choosing, served), before)
        reporter.note(
            f"polished, epoch {epochs}/{config.polish}: {gap['value']:+.4f} ± {gap['se']:.4f} NDCG@10 "
            f"on {len(choosing):,} validation users"
        )
        if is_worse(gap, 1.0):
            break
    kept = epochs == config.polish and is_better(gap, SURE)
    reporter.note("polishing pays and is kept" if kept else "polishing does not pay and is not kept")
    summary |= {"epochs": epochs, "gain": gap, "kept": kept}
    return (replace(canet, supernet=polished) if kept else canet), summary


def _serve(
    net: Supernet, config: TrainConfig, dataset: Dataset, choosing: HeldOut, reporter: Reporter
) -> tuple[Ladder, Served]:
    """The ladder of today's weights, and who goes where by the label itself."""
    spending = spending_of(config, net.config.items)
    judged = judge(net, choosing, config.seen, reporter)
    limits = (spending.routes, spending.allowed(config.budget))
    ladder, _ = choose_ladder(judged, *limits, config.router_label, config.escalate)
    label = order_of(judged, ladder.first, judged.routes.index(ladder.small))
    ladder = choose_share(judged, ladder, label, *limits, config.escalate)
    small, large = (config.space.routes[route_id] for route_id in (ladder.small, ladder.large))
    unsure = doubts(net, held_out(dataset, "validation"), small, config.seen)
    order = unsure if ladder.first == "entropy" else -unsure
    return ladder, Served(small, large, escalated(order, ladder.share))


def _quality(net: Supernet, config: TrainConfig, queries: HeldOut, served: Served) -> Values:
    """NDCG@10 of every user on the route that serves them, [n]."""
    space = config.space
    ids = np.where(served.up[queries.users], space.id_of(served.large), space.id_of(served.small))
    return ndcg(rank_targets(net, queries, ids).under(config.seen), 10)


def _epochs(
    net: Supernet,
    teacher: Supernet,
    config: TrainConfig,
    dataset: Dataset,
    served: Served,
    reporter: Reporter,
    stop: Callable[[], bool],
) -> Iterator[Supernet]:
    """Train ``net``, in place; after every epoch, what is to be judged: its average, where one is kept.

    Windows, batches and dropout go on as if the run had so many epochs more; the rate has a warm-up and a
    cosine of its own. A loss that is not finite ends it.
    """
    device = net.classifier_bias.device
    averaged = deepcopy(net) if config.average > 0 else net
    neighbours = find_neighbours(dataset).to(device) if asks_neighbours(config) else None
    tutor = Tutor(teacher, neighbours, config.cooccurrence)
    optimizer: Any = torch.optim.Adam(net.parameters(), config.lr, config.betas, fused=True)
    step = 0
    for epoch in range(config.polish):
        net.train()
        windows = epoch_windows(dataset, config, config.epochs + epoch)
        batches = epoch_batches(windows, config, config.epochs + epoch)
        for done, batch in enumerate(batches, start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, config.polish * len(batches))
            torch.manual_seed(config.seed * 1_000_003 + config.epochs * len(batches) + step)
            seq, targets = (torch.from_numpy(part).to(device) for part in windows.batch(batch))
            loss = _loss(net, tutor, served.parts(windows.users[batch]), seq, targets.long())
            if not math.isfinite(float(loss.detach())):
                reporter.note(
                    f"warning: the loss is not finite in epoch {epoch + 1} of polishing, step {done}"
                )
                return
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if averaged is not net:
                follow(averaged, net, step, config.average * len(batches))
            reporter.stage(f"polishing, epoch {epoch + 1} of {config.polish}, step", done, len(batches))
            if stop():
                raise StopAsked(f"epoch {epoch + 1}, step {done} of {len(batches)}")
        yield averaged.eval()


def _loss(
    net: Supernet,
    tutor: Tutor,
    parts: list[tuple[Route, NDArray[np.bool_]]],
    seq: Tensor,
    targets: Tensor,
) -> Tensor:
    """Mean over positions: each row on the route of its user, half from the targets, half from the tutor."""
    total = torch.zeros((), device=seq.device)
    for route, rows in parts:
        where = torch.from_numpy(rows).to(seq.device)
        read, wanted = seq[where], targets[where]
        real = read > 0
        states = net.sliced(read, route)[real]
        total = total + sandwich_loss(net, [states], wanted[real], tutor.at(read))[0]
    return total / (seq > 0).sum()
