"""The losses against their plain statements."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_canet, random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.data.neighbours import REACH, Neighbours, Opinion
from canet_mobile.model import losses
from canet_mobile.model.losses import (
    Teacher,
    catalogue_loss,
    easy_users,
    guide_labels,
    guide_loss,
    sandwich_loss,
    uniform_loss,
)
from canet_mobile.model.space import RoutingSpace

SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))


def plain_loss(net, states, targets):
    scores = [net.scores(s) for s in states]
    total = F.cross_entropy(scores[0], targets, reduction="sum")
    return total + distilled(scores[0].detach().softmax(-1), scores[1:], targets)


def an_opinion(rows: int) -> Opinion:
    near = Neighbours(torch.randint(1, 71, (71, 3), dtype=torch.int32), torch.rand(71, 3) / 3)
    return Opinion(near, torch.randint(1, 71, (rows, REACH)), 0.3)


def distilled(teacher: torch.Tensor, students: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for student in students:
        log_q = student.log_softmax(-1)
        total = total + 0.5 * F.nll_loss(log_q, targets, reduction="sum") - 0.5 * (teacher * log_q).sum()
    return total


@given(
    rows=st.integers(1, 40),
    widths=st.lists(st.sampled_from([8, 16]), min_size=1, max_size=3),
    seed=st.integers(0, 9),
    taught=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_catalogue_loss_and_its_gradients_equal_autograd(
    rows: int, widths: list[int], seed: int, taught: bool
) -> None:
    net = random_canet(items=70, length=6, space=SPACE, seed=seed).supernet
    teacher = None
    if taught:
        other = random_canet(items=70, length=6, space=SPACE, seed=seed + 1).supernet.requires_grad_(False)
        teacher = Teacher(other, torch.randn(rows, 16), an_opinion(rows) if seed % 2 else None)
    states = [torch.randn(rows, w, requires_grad=True) for w in widths]
    targets = torch.randint(1, 71, (rows,))
    chunk, least = losses.CHUNK_SCORES["cpu"], losses.LEAST_ROWS
    losses.CHUNK_SCORES["cpu"], losses.LEAST_ROWS = 16 * 71, 1  # several chunks
    try:
        found, parts = sandwich_loss(net, states, targets, teacher)
    finally:
        losses.CHUNK_SCORES["cpu"], losses.LEAST_ROWS = chunk, least
    if teacher is None:
        expected = plain_loss(net, states, targets)
    else:
        beliefs = teacher.net.scores(teacher.states).softmax(-1)
        if teacher.opinion is not None:
            teacher.opinion.mix_into(beliefs, slice(None))
        expected = distilled(beliefs, [net.scores(s) for s in states], targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(parts.sum(), found.detach())
    over = [net.classifier_weight, net.classifier_bias, *states]
    for a, b in zip(
        torch.autograd.grad(3 * found, over), torch.autograd.grad(3 * expected, over), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_catalogue_loss_under_bf16_stays_close() -> None:
    net = random_canet(items=70, length=6, space=SPACE).supernet
    states, targets = torch.randn(50, 16, requires_grad=True), torch.randint(1, 71, (50,))
    exact = catalogue_loss(net, states, targets)
    with torch.autocast("cpu", torch.bfloat16):
        low = catalogue_loss(net, states, targets)
    assert low.dtype == torch.float32
    assert float((low - exact).detach().abs() / exact.detach()) < 0.02
    low.backward()
    assert net.classifier_weight.grad.dtype == torch.float32


def test_guide_labels_are_exponential_and_sum_to_one() -> None:
    labels = guide_labels(3, 4.0)
    torch.testing.assert_close(labels, torch.tensor([16.0, 4.0, 1.0]) / 21)


def test_guide_loss_uses_marginals_of_probabilities_not_of_logits() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, len(SPACE), requires_grad=True)
    easy = torch.tensor([True, False, True, False, False])
    p = logits.softmax(-1)
    expected = 0.0
    for user in range(5):
        for name, decay in (("embedding", 4.0), ("hidden", 4.0), ("depth", 2.0)):
            values = getattr(SPACE, name)
            label = guide_labels(len(values), decay)
            label = label if easy[user] else label.flip(0)
            for value, weight in zip(values, label, strict=True):
                marginal = sum(p[user, i] for i, r in enumerate(SPACE) if getattr(r, name) == value)
                expected = expected - weight * torch.log(marginal)
    torch.testing.assert_close(guide_loss(logits, easy, SPACE), expected / 5)


def test_guide_pulls_easy_users_to_the_smallest_and_hard_ones_to_the_largest() -> None:
    logits = torch.zeros(2, len(SPACE), requires_grad=True)
    guide_loss(logits, torch.tensor([True, False]), SPACE).backward()
    step = -logits.grad
    assert step[0].argmax() == 0 and step[1].argmax() == len(SPACE) - 1


def test_uniform_loss_is_least_for_the_uniform_router() -> None:
    assert float(uniform_loss(torch.zeros(3, 8))) == pytest.approx(math.log(8), rel=1e-6)
    assert uniform_loss(torch.randn(3, 8)) > math.log(8)


def test_easy_label_comes_from_the_smallest_submodel_without_dropout() -> None:
    canet = random_canet(items=40, length=8, space=SPACE)
    net = canet.supernet.train()
    seq, targets = random_histories(30, 40, 8), torch.randint(1, 41, (30, 8))
    found = easy_users(net, seq, targets, 10)
    assert net.training
    assert torch.equal(found, easy_users(net, seq, targets, 10))
    net.eval()
    with torch.no_grad():
        top = net.scores(net.sliced(seq, SPACE.smallest)[:, -1]).topk(10).indices
    assert torch.equal(found, (top == targets[:, -1:]).any(1))
    # A target that the user has seen is not hidden: it can be easy.
    seen = seq.clone()
    seen[:, -2] = targets[:, -1]
    assert easy_users(net, seen, targets, 40).all()
