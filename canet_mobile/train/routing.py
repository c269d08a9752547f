"""The router of the sandwich and rows recipes: distilled from what the supernet itself knows of its routes.

The router learns to predict, from a history, how much better the ladder's larger route would serve it
(:mod:`canet_mobile.train.gains`). The labels need no held-out item, so there is one for every position of every
history, and a router of width 32 learns them in seconds. Who is escalated is then a matter of a threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canet_mobile.data.split import HeldOut, Windows, length_buckets
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import Supernet
from canet_mobile.train.config import TrainConfig
from canet_mobile.train.gains import expected_ndcg, judge, query_inputs, query_rows, seen_before
from canet_mobile.train.ladder import Ladder, choose_ladder, order_of
from canet_mobile.train.spending import Spending

LABELLED_POSITIONS = 400_000
FIT_EPOCHS, FIT_BATCH, FIT_LR, FIT_WARMUP = 4, 64, 3e-3, 20
NEVER = -1e4  # bias of a route that is not on the ladder; safe in fp16
RULES = {
    "gain": "expected gain of the large route, distilled",
    "entropy": "entropy of the small route, distilled",
}


def fit_router(
    canet: Canet, config: TrainConfig, windows: Windows, queries: HeldOut, spending: Spending
) -> tuple[Canet, dict[str, Any], Ladder]:
    """Choose the ladder on validation, then distil a router that tells who gains from its larger route.

    The regression head [1, 32] is folded into the router's usual head: logit 0 for the small route, the
    predicted gain (in standard deviations) for the large one, -1e4 for the rest. The threshold is left to the
    operating points.

    Args:
        canet: trained supernet and an untrained router.
        config: seed, seen, budget, escalate, router_label.
        windows: training windows, which supply the histories (their targets are not used).
        queries: validation queries (their targets choose the ladder, nothing else).
        spending: what routes cost.

    Returns:
        The model with its fitted router, a summary for the run's manifest, and the ladder.
    """
    net, blank = canet.supernet, canet.router
    assert blank is not None
    net.eval()
    judged = judge(net, queries, config.seen)
    ladder, _ = choose_ladder(
        judged, spending.routes, spending.allowed(config.budget), config.router_label, config.escalate
    )
    space = config.space
    small, large = space.routes[ladder.small], space.routes[ladder.large]
    router = _distil(net, blank, config, windows, small, large)
    fitted = _fold(router, blank, ladder)
    truth = order_of(judged, config.router_label, *map(judged.routes.index, (ladder.small, ladder.large)))
    scores = router_logits(fitted, net, queries)[:, ladder.large].numpy()
    summary = {
        "rule": RULES[config.router_label],
        "small": small.entry,
        "large": large.entry,
        "escalated_share": ladder.share,
        "budget_met": ladder.budget_met,
        "correlation_with_label": float(np.corrcoef(scores, truth)[0, 1]),
    }
    return Canet(net, fitted).eval(), summary, ladder


def _distil(
    net: Supernet, blank: Router, config: TrainConfig, windows: Windows, small: Route, large: Route
) -> Router:
    """A router of one output, fitted to the labels of all positions of all (or very many) windows."""
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
    batches = _labelled_batches(windows, config.seed)
    labelled = [
        (seq, _labels(net, seq, config, small, large))
        for seq in (torch.from_numpy(windows.batch(rows)[0]).to(device) for rows in batches)
    ]
    known = torch.cat([labels for _, labels in labelled])
    mean, spread = known.mean(), known.std().clamp_min(1e-9)
    optimizer = torch.optim.Adam(router.parameters(), FIT_LR)
    router.train()
    step, steps = 0, FIT_EPOCHS * len(labelled)
    for epoch in range(FIT_EPOCHS):
        for number in np.random.default_rng((config.seed, epoch)).permutation(len(labelled)):
            seq, labels = labelled[number]
            warm, cosine = min(1.0, (step + 1) / FIT_WARMUP), 0.5 * (1 + np.cos(np.pi * step / steps))
            optimizer.param_groups[0]["lr"] = FIT_LR * warm * cosine
            found = F.linear(router.states(seq, table)[seq > 0], router.head_weight, router.head_bias)[:, 0]
            loss = F.mse_loss(found, (labels - mean) / spread)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return router.eval()


def _labelled_batches(windows: Windows, seed: int) -> list[Any]:
    """Windows in random order until there are enough positions, in batches of similar length."""
    order = np.random.default_rng(seed).permutation(len(windows))
    enough = int(np.searchsorted(np.cumsum(windows.sizes[order]), LABELLED_POSITIONS)) + 1
    picked = order[:enough]
    return [picked[part] for part in length_buckets(windows.sizes[picked], FIT_BATCH)]


@torch.no_grad()
def _labels(net: Supernet, seq: Tensor, config: TrainConfig, small: Route, large: Route) -> Tensor:
    """The label of every real position of ``seq`` [B, T], [positions] float32."""
    real = seq > 0
    states = [net.sliced(seq, route)[real] for route in (small, large)]
    seen = seen_before(seq)[real] if config.seen == "exclude" else None
    expected, entropy, _ = expected_ndcg(net, states, seen)
    return expected[1] - expected[0] if config.router_label == "gain" else entropy[0]


@torch.no_grad()
def router_logits(router: Router, net: Supernet, queries: HeldOut) -> Tensor:
    """Logits of every query, [n, routes] float32 on the CPU, before any operating point."""
    out = torch.empty(len(queries), router.config.routes)
    for rows in query_rows(queries, net.config.length, 256):
        out[rows] = router(query_inputs(queries, rows, net), net.item_table).float().cpu()
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
