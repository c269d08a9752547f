"""How well each candidate route serves held-out users, and how unsure it is of each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_mobile.accelerator import suited
from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.evaluate.scoring import query_batches, rank_in_scores, score_chunks
from canet_mobile.model.losses import CHUNK_SCORES
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.model.supernet import PAD_CLASS_BIAS, Supernet
from canet_mobile.run.reporter import Reporter, Silent

TOP = 10
JUDGED_ROWS = 256

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Candidate routes on held-out users.

    Args:
        space: the routing space.
        routes: route ids [c], ascending in cost.
        ndcg10: NDCG@10 of each candidate for each user, [c, n] float64.
        entropy: entropy in nats of what each predicts of each user, [c, n] float64.
    """

    space: RoutingSpace
    routes: tuple[int, ...]
    ndcg10: Values
    entropy: Values

    @cached_property
    def smoothed(self) -> Values:
        """Each user's NDCG@10 as the sum of what a width and what a depth are worth to that user, [c, n].

        A least-squares fit over the candidates. Few users tell 13 routes apart badly, and the best of many
        noisy means is mostly luck; three or four widths and depths are told apart better.
        """
        routes = [self.space.routes[route_id] for route_id in self.routes]
        widths = list(dict.fromkeys((route.embedding, route.hidden) for route in routes))
        depths = list(dict.fromkeys(route.depth for route in routes))
        design = np.array(
            [
                [(route.embedding, route.hidden) == width for width in widths]
                + [route.depth == depth for depth in depths[1:]]
                for route in routes
            ],
            np.float64,
        )
        return design @ np.linalg.pinv(design) @ self.ndcg10


def candidates(space: RoutingSpace) -> list[int]:
    """Routes a ladder may use: the smallest, and those of the widest embedding, which costs little."""
    return [n for n, r in enumerate(space) if r == space.smallest or r.embedding == space.largest.embedding]


def entropy_of(scores: Tensor) -> Tensor:
    """Entropy in nats of a softmax over scores [N, V+1] that hide pads and seen items at -1e4: [N]."""
    log_p = scores.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@torch.no_grad()
def doubt(net: Supernet, states: Tensor, seen: Tensor | None = None) -> Tensor:
    """How unsure a submodel is at many positions.

    Args:
        net: the supernet, whose classifier scores the states.
        states: of one submodel, [N, h].
        seen: item ids [N, T] that are not recommended, 0 for none.

    Returns:
        Entropy in nats, [N] float32.
    """
    rows = max(16, CHUNK_SCORES[states.device.type] // (net.config.items + 1))
    found = []
    for start in range(0, len(states), rows):
        part = slice(start, start + rows)
        scores = net.scores(states[part]).float()
        found.append(entropy_of(scores if seen is None else scores.scatter(1, seen[part], PAD_CLASS_BIAS)))
    return torch.cat(found) if found else states.new_zeros(0)


@torch.no_grad()
def doubts(net: Supernet, queries: HeldOut, route: Route, seen: str) -> Values:
    """How unsure one route is of every query, [n] float64 in nats; as :func:`judge` has it."""
    found = np.zeros(len(queries))
    for rows, inputs in query_batches(net, queries, size=suited(JUDGED_ROWS, net.classifier_bias.device)):
        states = net.last_states(inputs, route)
        for part, scores, _, hidden in score_chunks(net, states, queries, rows):
            found[rows[part]] = _entropy_shown(scores, hidden, seen).cpu().numpy()
    return found


def _entropy_shown(scores: Tensor, hidden: tuple[Tensor, Tensor], seen: str) -> Tensor:
    """Entropy of a prediction of what may be shown; the scores [n, V+1] are changed."""
    scores[:, 0] = PAD_CLASS_BIAS
    if seen == "exclude":
        scores[hidden] = PAD_CLASS_BIAS
    return entropy_of(scores)


@torch.no_grad()
def judge(net: Supernet, queries: HeldOut, seen: str, reporter: Reporter | None = None) -> Judged:
    """Every candidate on every query; routes that differ in depth alone share their blocks.

    Args:
        net: the supernet in eval mode.
        queries: validation queries.
        seen: the run's protocol, ``keep`` or ``exclude``.
        reporter: told how many users are judged.
    """
    reporter, done = reporter or Silent(), 0
    routes = candidates(net.config.space)
    ndcg10, entropy = (np.zeros((len(routes), len(queries))) for _ in range(2))
    for rows, inputs in query_batches(net, queries, size=suited(JUDGED_ROWS, net.classifier_bias.device)):
        states = _last_states(net, inputs, routes)
        for number, route_id in enumerate(routes):
            for part, scores, targets, hidden in score_chunks(net, states[route_id], queries, rows):
                keep, exclude = rank_in_scores(scores, targets, hidden)
                ranks = (keep if seen == "keep" else exclude).cpu().numpy()
                ndcg10[number, rows[part]] = ndcg(ranks, TOP)
                entropy[number, rows[part]] = _entropy_shown(scores, hidden, seen).cpu().numpy()
        done += len(rows)
        reporter.stage("judging routes, user", done, len(queries))
    return Judged(net.config.space, tuple(routes), ndcg10, entropy)


def _last_states(net: Supernet, inputs: Tensor, routes: list[int]) -> dict[int, Tensor]:
    """States of the last position by route id, [B, h] each."""
    space = net.config.space
    sizes = {n: (space.routes[n].embedding, space.routes[n].hidden) for n in routes}
    states: dict[int, Tensor] = {}
    for embedding, hidden in dict.fromkeys(sizes.values()):
        of_width = [n for n in routes if sizes[n] == (embedding, hidden)]
        depths = tuple(space.routes[n].depth for n in of_width)
        by_depth = net.sliced_depths(inputs, embedding, hidden, depths)
        states |= {n: state[:, -1] for n, state in zip(of_width, by_depth, strict=True)}
    return states


def seen_before(seq: Tensor) -> Tensor:
    """What each position has seen, itself included: [B, T] -> [B, T, T] int64, 0 for the rest."""
    length = seq.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=seq.device).tril()
    return torch.where(past, seq[:, None, :].long(), 0)
