"""What two routes' doubts count for: hand-made users of whom it is known who gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from routing_toys import fit, many_users, routed_config

from canet_mobile.model.space import RoutingSpace
from canet_mobile.train import labels, routing
from canet_mobile.train.judging import Judged, doubt
from canet_mobile.train.labels import BOTH, SURE, UNSURE, Label, fitted_label, labels_for
from canet_mobile.train.ladder import Ladder, choose_ladder

SPACE = RoutingSpace((8,), (8,), (1, 2))
COSTS = np.array([1.0, 2.0])
USERS = 2000


def judged(weights: tuple[float, float], users: int = USERS, noise: float = 0.0) -> Judged:
    """Two routes; a user gains from the large one what these weights make of their two entropies."""
    rng = np.random.default_rng(0)
    entropy = 3 + rng.standard_normal((2, users))
    gained = np.array(weights) @ entropy + noise * rng.standard_normal(users)
    return Judged(SPACE, (0, 1), np.stack([np.full(users, 0.3), 0.3 + gained - gained.mean()]), entropy)


@pytest.mark.parametrize("weights", [(0.06, -0.03), (-0.01, -0.03), (0.02, 0.0)])
def test_weights_are_those_by_which_users_gain(weights: tuple[float, float]) -> None:
    label = fitted_label(judged(weights), (0, 1))
    size = abs(weights[0]) + abs(weights[1])
    assert (label.small, label.large) == pytest.approx((weights[0] / size, weights[1] / size), abs=1e-9)
    assert label.name == BOTH and isinstance(label.small, float)
    noisy = fitted_label(judged(weights, noise=0.02), (0, 1))
    assert (noisy.small, noisy.large) == pytest.approx((label.small, label.large), abs=0.1)


def test_where_nobody_gains_more_than_anybody_it_is_the_entropy_of_the_small_route() -> None:
    alike = judged((0.0, 0.0))
    assert fitted_label(alike, (0, 1)) == Label(BOTH, 1.0, 0.0)
    assert fitted_label(alike, (0, 1)).of(alike, (0, 1)).tolist() == UNSURE.of(alike, (0, 1)).tolist()


def test_a_label_is_the_weighted_sum_of_two_entropies() -> None:
    found = Judged(SPACE, (0, 1), np.zeros((2, 2)), np.array([[7.0, 8.0], [1.0, 2.0]]))
    assert Label(BOTH, 0.25, -0.75).of(found, (0, 1)).tolist() == [1.0, 0.5]
    assert Label(BOTH, 0.25, -0.75).of(found, (1, 0)).tolist() == [-5.0, -5.5]


def test_auto_fits_weights_to_many_users_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged((0.1, -0.1), users=labels.FITTING_USERS)
    fitted = fitted_label(found, (0, 1))
    assert labels_for(found, (0, 1), "auto") == [UNSURE, SURE, fitted]
    assert labels_for(found, (0, 1), "auto", fit=False) == [UNSURE, SURE]
    monkeypatch.setattr(labels, "FITTING_USERS", labels.FITTING_USERS + 1)
    assert labels_for(found, (0, 1), "auto") == [UNSURE, SURE]
    for name, only in ((BOTH, fitted), (UNSURE.name, UNSURE), (SURE.name, SURE)):
        assert labels_for(found, (0, 1), name) == [only]


def test_auto_takes_both_doubts_where_their_difference_tells_who_gains() -> None:
    found = judged((0.1, -0.1))
    ladder, taken = choose_ladder(found, COSTS, 4.0)
    assert ladder.label.name == BOTH and (ladder.label.small, ladder.label.large) == pytest.approx(
        (0.5, -0.5)
    )
    surer = found.entropy[0] - found.entropy[1]
    assert surer[taken == 1].min() > surer[taken == 0].max()
    one, _ = choose_ladder(found, COSTS, 4.0, gain=False)
    assert one.label in (UNSURE, SURE) and one.ndcg10 < ladder.ndcg10


@pytest.mark.parametrize("label", [UNSURE, SURE, Label(BOTH, 0.75, -0.25)])
def test_what_the_router_is_taught_is_that_sum(label: Label) -> None:
    model, _, _ = fit(routed_config(), many_users(60))
    net, space = model.supernet, model.supernet.config.space
    small, large = 0, len(space) - 1
    ladder = Ladder(small, large, label, 0.5, 0.0, 0.0, True)
    seq = torch.tensor([[0, 0, 1, 2], [3, 1, 2, 4]])
    where = seq > 0
    taught = routing._labels(net, seq, where, routed_config(), ladder)
    entropies = [doubt(net, net.sliced(seq, space.routes[n])[where]) for n in (small, large)]
    assert torch.allclose(taught, label.small * entropies[0] + label.large * entropies[1])
    assert taught.shape == (6,) and not torch.allclose(*entropies)
