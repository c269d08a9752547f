"""The router of the sandwich and rows recipes: distilled from the smallest route's predictive entropy.

Whether one held-out target is easy for a user is a very noisy label. How unsure the smallest route is says
the same thing at every position of every history, needs no target, and a router of width 32 learns to predict
it in seconds. Users above a threshold are escalated to a larger route; the threshold is a quantile of the
validation histories' scores, so the average cost is set by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canet_mobile.data.split import HeldOut, Windows, length_buckets
from canet_mobile.evaluate.costs import paper_mflops, router_paper_mflops, sasrec_paper_mflops
from canet_mobile.evaluate.metrics import ndcg, standard_error
from canet_mobile.evaluate.scoring import rank_targets
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.supernet import Supernet
from canet_mobile.train.config import TrainConfig
from canet_mobile.train.losses import CHUNK_SCORES

LABELLED_WINDOWS = 5000
FIT_EPOCHS, FIT_BATCH, FIT_LR = 4, 64, 3e-3
NEVER = -1e4  # bias of a route that is not on the ladder; safe in fp16
LEAST_ESCALATED = 0.05


@torch.no_grad()
def entropies(net: Supernet, states: Tensor) -> Tensor:
    """Predictive entropy in nats of each state [N, h] -> [N] float32, in chunks of rows."""
    rows = max(16, CHUNK_SCORES[states.device.type] // (net.config.items + 1))
    out = []
    for part in states.split(rows):
        log_p = net.scores(part).float().log_softmax(-1)
        out.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(out)


@torch.no_grad()
def user_entropies(net: Supernet, queries: HeldOut) -> Tensor:
    """Entropy of the smallest route at the end of each history, [n] float32 on the CPU."""
    out = torch.empty(len(queries))
    for rows in _rows(queries, net.config.length):
        seq = _inputs(queries, rows, net)
        out[rows] = entropies(net, net.last_states(seq, net.config.space.smallest)).cpu()
    return out


def _rows(queries: HeldOut, length: int) -> Any:
    return length_buckets(np.minimum(queries.ends - queries.starts, length), 256)


def _inputs(queries: HeldOut, rows: Any, net: Supernet) -> Tensor:
    width = int(np.minimum(queries.ends[rows] - queries.starts[rows], net.config.length).max())
    return torch.from_numpy(queries.inputs(rows, width)).to(net.classifier_bias.device)


@dataclass(frozen=True)
class Ladder:
    """Which users leave the smallest route, and for which: chosen on validation alone.

    Args:
        small, large: route ids.
        share: share of users escalated to ``large``.
        ndcg10: mean validation NDCG@10 of the users each to their route.
        mflops: average paper MFLOPs, router included.
        budget_met: whether the budget leaves room for the least share of escalated users.
    """

    small: int
    large: int
    share: float
    ndcg10: float
    mflops: float
    budget_met: bool


def average_mflops(config: TrainConfig, items: int, route_ids: np.ndarray[Any, Any]) -> float:
    """Average paper MFLOPs of users on these routes; the router's own cost is included unless SASRec."""
    if config.model == "sasrec":
        return sasrec_paper_mflops(items, config.length, config.hidden[0], config.depth[0])
    costs = np.array([paper_mflops(items, config.length, route) for route in config.space])
    return float(costs[route_ids].mean()) + router_paper_mflops(config.length, len(config.space))


def full_mflops(config: TrainConfig, items: int) -> float:
    """Paper MFLOPs of the plain SASRec as large as the space's largest route: what budgets are shares of."""
    widest = config.space.largest
    return sasrec_paper_mflops(items, config.length, widest.hidden, widest.depth)


def choose_ladder(
    net: Supernet, config: TrainConfig, queries: HeldOut, scores: Tensor
) -> tuple[Ladder, np.ndarray[Any, Any]]:
    """Pick the large route and the share of users it gets, by routed validation NDCG@10 within the budget.

    Every route with the widest embedding (which costs next to nothing) is tried with the share of users that
    the budget leaves for it, ``config.escalate`` at most. Taken is the cheapest ladder whose NDCG@10 lies
    within one standard error (of the paired difference) of the best ladder's.

    Args:
        net: the supernet in eval mode.
        config: budget and escalate.
        queries: validation queries.
        scores: how unsure the smallest route is about each, [n]; the highest are escalated first.

    Returns:
        The ladder and each query's route id [n].
    """
    space, items = config.space, net.config.items
    small = space.id_of(space.smallest)
    costs = [paper_mflops(items, config.length, route) for route in space]
    allowed = config.budget * full_mflops(config, items) - router_paper_mflops(config.length, len(space))
    kept = _gain(net, config, queries, small)
    tried: list[tuple[Ladder, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for large, route in enumerate(space):
        if route.embedding != space.largest.embedding or large == small:
            continue
        affordable = (allowed - costs[small]) / (costs[large] - costs[small])
        share = float(np.clip(affordable, LEAST_ESCALATED, config.escalate))
        up = scores.numpy() > threshold(scores, share)
        routed, route_ids = np.where(up, _gain(net, config, queries, large), kept), np.where(up, large, small)
        spent, met = average_mflops(config, items, route_ids), affordable >= LEAST_ESCALATED
        tried.append((Ladder(small, large, share, float(routed.mean()), spent, met), route_ids, routed))
    if any(ladder.budget_met for ladder, _, _ in tried):
        tried = [row for row in tried if row[0].budget_met]
    best = max(tried, key=lambda row: row[0].ndcg10)[2]
    good = [row for row in tried if (best - row[2]).mean() <= standard_error(best - row[2])]
    ladder, route_ids, _ = min(good, key=lambda row: row[0].mflops)
    return ladder, route_ids


def _gain(net: Supernet, config: TrainConfig, queries: HeldOut, route_id: int) -> np.ndarray[Any, Any]:
    """NDCG@10 of every query on one fixed route, [n], under the run's seen protocol."""
    ranks = rank_targets(net, queries, np.full(len(queries), route_id))
    return ndcg(ranks.under(config.seen), 10)


def threshold(scores: Tensor, share: float) -> float:
    """The score that ``share`` of the users exceed."""
    return float(torch.quantile(scores.double(), 1 - share))


def fit_router(
    canet: Canet, config: TrainConfig, windows: Windows, queries: HeldOut
) -> tuple[Canet, dict[str, Any]]:
    """Distil a router from the supernet's smallest route, then set its threshold on validation.

    The regression head [1, 32] and the threshold are folded into the router's usual head: logit 0 for the
    smallest route, score - threshold for the large one, -1e4 for the rest, so argmax is the rule and the
    package needs no second form of router.

    Args:
        canet: trained supernet and an untrained router.
        config: seed, budget, escalate.
        windows: training windows, which supply the histories (their targets are not used).
        queries: validation queries (their targets choose the large route, nothing else).

    Returns:
        The model with its fitted router, and a summary for the run's manifest.
    """
    net, blank = canet.supernet, canet.router
    assert blank is not None
    device = net.classifier_bias.device
    net.eval()
    torch.manual_seed(config.seed)
    router = Router(RouterConfig(**{**vars(blank.config), "routes": 1})).to(device)
    table = net.item_table.detach()
    if router.config.table == "shared":
        router.table_scale.fill_(1 / float(table[1:, : router.config.width].std()))
    rng = np.random.default_rng(config.seed)
    picked = rng.permutation(len(windows))[:LABELLED_WINDOWS]
    batches = [picked[part] for part in length_buckets(windows.sizes[picked], FIT_BATCH)]
    labelled = [(seq, _labels(net, seq)) for seq in (_window_inputs(windows, b, device) for b in batches)]
    known = torch.cat([labels for _, labels in labelled])
    mean, spread = known.mean(), known.std().clamp_min(1e-6)
    optimizer = torch.optim.Adam(router.parameters(), FIT_LR)
    for epoch in range(FIT_EPOCHS):
        router.train()
        for number in np.random.default_rng((config.seed, epoch)).permutation(len(labelled)):
            seq, labels = labelled[number]
            found = F.linear(router.states(seq, table)[seq > 0], router.head_weight, router.head_bias)[:, 0]
            loss = F.mse_loss(found, (labels - mean) / spread)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    router.eval()
    scores = _router_scores(router, net, queries)
    truth = user_entropies(net, queries)
    ladder, _ = choose_ladder(net, config, queries, scores)
    fitted = _fold(router, blank, ladder, threshold(scores, ladder.share))
    space = config.space
    summary = {
        "rule": "entropy of the smallest route, distilled",
        "small": space.routes[ladder.small].entry,
        "large": space.routes[ladder.large].entry,
        "escalated_share": ladder.share,
        "budget_met": ladder.budget_met,
        "correlation_with_entropy": float(torch.corrcoef(torch.stack([scores, truth]))[0, 1]),
    }
    return Canet(net, fitted).eval(), summary


def _window_inputs(windows: Windows, rows: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(windows.batch(rows)[0]).to(device)


def _labels(net: Supernet, seq: Tensor) -> Tensor:
    with torch.no_grad():
        return entropies(net, net.sliced(seq, net.config.space.smallest)[seq > 0])


@torch.no_grad()
def _router_scores(router: Router, net: Supernet, queries: HeldOut) -> Tensor:
    out = torch.empty(len(queries))
    for rows in _rows(queries, net.config.length):
        out[rows] = router(_inputs(queries, rows, net), net.item_table)[:, 0].float().cpu()
    return out


@torch.no_grad()
def _fold(fitted: Router, blank: Router, ladder: Ladder, limit: float) -> Router:
    """The fitted one-score router as a router over all routes whose argmax is the threshold rule."""
    router = Router(blank.config).to(fitted.head_bias.device)
    state = {k: v for k, v in fitted.state_dict().items() if not k.startswith("head_")}
    router.load_state_dict(state, strict=False)
    router.head_weight.zero_()
    router.head_bias.fill_(NEVER)
    router.head_bias[ladder.small] = 0.0
    router.head_weight[ladder.large] = fitted.head_weight[0]
    router.head_bias[ladder.large] = fitted.head_bias[0] - limit
    return router.eval()
