"""What the router learns to tell of a user: how unsure two routes are, and what that counts for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canet_mobile.train.judging import Judged, Values

# Weights fitted to fewer are mostly luck: those of 500 users served others no better than one entropy.
FITTING_USERS = 1_000


@dataclass(frozen=True)
class Label:
    """Users of whom it is highest are the first to get the larger of two routes.

    Args:
        name: the key of its words in :data:`RULES`.
        small, large: what each route's entropy of the user counts for.
    """

    name: str
    small: float
    large: float = 0.0

    def of(self, judged: Judged, pair: tuple[int, int]) -> Values:
        """The label of every judged user, [n] float64, for routes at these two positions of ``judged``."""
        small, large = judged.entropy[list(pair)]
        return self.small * small + self.large * large


UNSURE, SURE = Label("entropy", 1.0), Label("confidence", -1.0)
BOTH = "both"
RULES = {
    UNSURE.name: "entropy of the small route, distilled: the unsure first",
    SURE.name: "entropy of the small route, distilled: the sure first",
    BOTH: "entropies of both routes, distilled: weighted by who gained",
}


def labels_for(judged: Judged, pair: tuple[int, int], name: str, fit: bool = True) -> list[Label]:
    """The labels to try for two routes.

    Args:
        judged: candidates on the users that choose.
        pair: positions in ``judged`` of the small and the large route.
        name: one of :data:`RULES`, or ``auto`` for all of them.
        fit: whether ``auto`` fits one, given enough users.
    """
    if name == BOTH:
        return [fitted_label(judged, pair)]
    if name != "auto":
        return [label for label in (UNSURE, SURE) if label.name == name]
    enough = judged.entropy.shape[1] >= FITTING_USERS
    return [UNSURE, SURE, fitted_label(judged, pair)] if fit and enough else [UNSURE, SURE]


def fitted_label(judged: Judged, pair: tuple[int, int]) -> Label:
    """Both routes' entropies, weighted by least squares of what each user gained from the large route.

    Weights are scaled to sum to 1 without their signs, so that the label stays in nats. Where nobody gains
    more than anybody else no weights are better than others: then it is the small route's entropy.
    """
    small, large = pair
    entropy, gained = judged.entropy[[small, large]], judged.ndcg10[large] - judged.ndcg10[small]
    centred = entropy - entropy.mean(1, keepdims=True)
    weights = np.linalg.lstsq(centred.T, gained - gained.mean(), rcond=None)[0]
    size = float(np.abs(weights).sum())
    return Label(BOTH, *(weights / size).tolist()) if size > 1e-12 else Label(BOTH, UNSURE.small)
