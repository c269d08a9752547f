"""The router of the sandwich and rows recipes: distilled from what the supernet itself knows of its routes.

The router learns to predict, from a history, how unsure the ladder's smaller route is of what comes next
(:mod:`canet_mobile.routing.candidates`). The label needs no held-out item, so there is one for every position
of every history, and a router of width 32 learns it in seconds. Whether the unsure or the sure are escalated,
validation has told (:mod:`canet_mobile.routing.ladder`); how many is a threshold's matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canet_mobile.data.split import HeldOut, Windows, length_buckets
from canet_mobile.evaluate.scoring import query_batches
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.supernet import Supernet
from canet_mobile.routing.budget import Spending
from canet_mobile.routing.candidates import Values, doubt, judge, seen_before
from canet_mobile.routing.ladder import Ladder, choose_ladder, choose_share, order_of
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.reporter import Reporter, Silent
from canet_mobile.ties import at_most, best

LABELLED_POSITIONS = 400_000
FIT_EPOCHS, FIT_BATCH, FIT_LR, FIT_WARMUP = 4, 64, 3e-3, 20
ENDS_LR = 1e-3
NEVER = -1e4  # bias of a route that is not on the ladder; safe in fp16
Labelled = tuple[Tensor, Tensor, Tensor]  # histories [B, T], which positions [B, T], their labels [positions]
RULES = {
    "entropy": "entropy of the small route, distilled: the unsure first",
    "confidence": "entropy of the small route, distilled: the sure first",
}


def fit_router(
    canet: Canet,
    config: TrainConfig,
    choosing: HeldOut,
    others: HeldOut,
    windows: Windows,
    spending: Spending,
    reporter: Reporter | None = None,
) -> tuple[Canet, dict[str, Any], Ladder]:
    """Choose the ladder on validation, then distil a router that tells who is first to get its larger route.

    The regression head [1, 32] is folded into the router's usual head: logit 0 for the small route, the
    prediction (in standard deviations) for the large one, -1e4 for the rest. The threshold is left to the
    operating points.

    Args:
        canet: trained supernet and an untrained router.
        config: seed, seen, budget, escalate, router_label.
        choosing: validation histories whose targets choose the ladder.
        others: validation histories that supply labels; their targets are not used.
        windows: training windows, which supply histories for labels (their targets are not used).
        spending: what routes cost.
        reporter: told how far each stage is.

    Returns:
        The model with its fitted router, a summary for the run's manifest, and the ladder.
    """
    net, blank = canet.supernet, canet.router
    assert blank is not None
    net.eval()
    reporter = reporter or Silent()
    judged = judge(net, choosing, config.seen, reporter)
    limits = (spending.routes, spending.allowed(config.budget))
    ladder, _ = choose_ladder(judged, *limits, config.router_label, config.escalate)
    fitted = _fold(_distil(net, blank, config, windows, others, ladder, reporter), blank, ladder)
    truth = order_of(judged, ladder.first, judged.routes.index(ladder.small))
    scores = router_logits(fitted, net, choosing)[:, ladder.large].double().numpy()
    ladder = choose_share(judged, ladder, scores, *limits, config.escalate)
    spent = ladder.cost + spending.router
    fixed = [n for n, route_id in enumerate(judged.routes) if at_most(spending.routes[route_id], spent)]
    means = judged.smoothed.mean(1)
    one = best(fixed, lambda n: float(means[n]), lambda n: -float(spending.routes[judged.routes[n]]))
    summary = {
        "rule": RULES[ladder.first],
        "small": config.space.routes[ladder.small].entry,
        "large": config.space.routes[ladder.large].entry,
        "escalated_share": ladder.share,
        "budget_met": ladder.budget_met,
        "correlation_with_label": _correlation(scores, truth),
        "best_fixed": config.space.routes[judged.routes[one]].entry,
    }
    return Canet(net, fitted).eval(), summary, ladder


def _correlation(scores: Values, truth: Values) -> float:
    """Pearson's r over users; 0 where either is the same for everybody, which leaves nothing to predict."""
    return float(np.corrcoef(scores, truth)[0, 1]) if np.ptp(scores) > 0 and np.ptp(truth) > 0 else 0.0


def _distil(
    net: Supernet,
    blank: Router,
    config: TrainConfig,
    windows: Windows,
    others: HeldOut,
    ladder: Ladder,
    reporter: Reporter,
) -> Router:
    """A router of one output, fitted to the labels of very many positions, then of ends nobody trained on.

    Inside training histories the supernet has seen what comes next, and on sparse data it remembers: labels
    are many there and somewhat too sure. At the end of a history they are what the phone will meet.
    """
    device = net.classifier_bias.device
    torch.manual_seed(config.seed)
    router = Router(RouterConfig(**{**vars(blank.config), "routes": 1})).to(device)
    table = net.item_table.detach()
    scale = 1 / float(table[1:, : router.config.width].std())
    with torch.no_grad():
        if router.config.table == "shared":
            router.table_scale.fill_(scale)
        else:  # what the supernet knows of items is the best start there is
            router.item_table.copy_(table[:, : router.config.width] * scale)
    positions = []
    picked = _labelled_batches(windows, config.seed)
    for done, rows in enumerate(picked, start=1):
        seq = torch.from_numpy(windows.batch(rows)[0]).to(device)
        positions.append((seq, seq > 0, _labels(net, seq, seq > 0, config, ladder)))
        reporter.stage("labelling positions, batch", done, len(picked))
    _fit(router, table, positions, FIT_LR, config.seed, reporter)
    ends = []
    for _, seq in query_batches(net, others, size=FIT_BATCH):
        last = torch.zeros_like(seq, dtype=torch.bool)
        last[:, -1] = True
        ends.append((seq, last, _labels(net, seq, last, config, ladder)))
    _fit(router, table, ends, ENDS_LR, config.seed + 1, reporter)
    return router.eval()


def _fit(
    router: Router, table: Tensor, batches: list[Labelled], peak: float, seed: int, reporter: Reporter
) -> None:
    """Least squares on standardised labels, a warm-up and a cosine."""
    known = torch.cat([labels for _, _, labels in batches])
    mean = known.mean()
    spread = known.std().clamp_min(1e-9) if len(known) > 1 else torch.ones_like(mean)  # one label has none
    optimizer = torch.optim.Adam(router.parameters(), peak)
    router.train()
    step, steps = 0, FIT_EPOCHS * len(batches)
    for epoch in range(FIT_EPOCHS):
        for number in np.random.default_rng((seed, epoch)).permutation(len(batches)):
            seq, where, labels = batches[number]
            warm, cosine = min(1.0, (step + 1) / FIT_WARMUP), 0.5 * (1 + np.cos(np.pi * step / steps))
            optimizer.param_groups[0]["lr"] = peak * warm * cosine
            found = F.linear(router.states(seq, table)[where], router.head_weight, router.head_bias)[:, 0]
            loss = F.mse_loss(found, (labels - mean) / spread)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            reporter.stage("fitting the router, step", step, steps)


def _labelled_batches(windows: Windows, seed: int) -> list[Any]:
    """Windows in random order until there are enough positions, in batches of similar length."""
    order = np.random.default_rng(seed).permutation(len(windows))
    enough = int(np.searchsorted(np.cumsum(windows.sizes[order]), LABELLED_POSITIONS)) + 1
    picked = order[:enough]
    return [picked[part] for part in length_buckets(windows.sizes[picked], FIT_BATCH)]


@torch.no_grad()
def _labels(net: Supernet, seq: Tensor, where: Tensor, config: TrainConfig, ladder: Ladder) -> Tensor:
    """The label of every position ``where`` [B, T] of ``seq`` [B, T]: [positions] float32."""
    seen = seen_before(seq)[where] if config.seen == "exclude" else None
    found = doubt(net, net.sliced(seq, config.space.routes[ladder.small])[where], seen)
    return found if ladder.first == "entropy" else -found


@torch.no_grad()
def router_logits(router: Router, net: Supernet, queries: HeldOut) -> Tensor:
    """Logits of every query, [n, routes] float32 on the CPU, before any operating point."""
    out = torch.empty(len(queries), router.config.routes)
    for rows, inputs in query_batches(net, queries):
        out[rows] = router(inputs, net.item_table).float().cpu()
    return out


@torch.no_grad()
def _fold(fitted: Router, blank: Router, ladder: Ladder) -> Router:
    """The fitted one-score router as a router over all routes."""
    router = Router(blank.config).to(fitted.head_bias.device)
    state = {k: v for k, v in fitted.state_dict().items() if not k.startswith(("head_", "points"))}
    router.load_state_dict(state, strict=False)
    router.head_weight.zero_()
    router.head_bias.fill_(NEVER)
    router.head_bias[ladder.small] = 0.0
    router.head_weight[ladder.large] = fitted.head_weight[0]
    router.head_bias[ladder.large] = fitted.head_bias[0]
    return router.eval()
