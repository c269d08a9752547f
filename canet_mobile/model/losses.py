"""The losses of the paper (Eq. 7-9) and of the sandwich rule, in memory that does not grow with items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from canet_mobile.data.neighbours import Opinion
from canet_mobile.model.recommender import Classifier
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet

# Scores of one chunk: 2M floats (8 MB) stay near the cache of a CPU; a GPU wants larger matrices.
CHUNK_SCORES = {"cpu": 2 << 20, "cuda": 64 << 20}
LEAST_ROWS = 48
DISTIL = 0.5  # share of a student's loss that comes from its teacher's scores
# Decay of the guide's soft labels from the preferred value to the next one.
GUIDE_DECAY = {"embedding": 4.0, "hidden": 4.0, "depth": 2.0}


@dataclass(frozen=True)
class Teacher:
    """Who else scores the catalogue, for students to learn from.

    Args:
        net: its classifier, of any width.
        states: [N, h], no gradients.
        opinion: mixed into what its scores say, where there is one.
    """

    net: Classifier
    states: Tensor
    opinion: Opinion | None = None


class _CatalogueLoss(torch.autograd.Function):
    """Sum over rows of softmax cross-entropy over all items, for students and, without a teacher from
    elsewhere, for the first submodel as the teacher of the others.

    Loss and gradients are computed together, chunk of rows by chunk, so that neither the scores nor their
    gradient ever exist for all positions at once. Matrix products run in autocast's dtype, sums in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, targets: Tensor, teacher: Teacher | None, *states: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        low_weight, low_bias = weight.to(dtype), bias.to(dtype)
        low_states = [state.to(dtype) for state in states]
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_states = [torch.empty_like(state) for state in states]
        totals = torch.zeros(len(states), dtype=torch.float64, device=weight.device)
        rows = min(len(targets), max(LEAST_ROWS, CHUNK_SCORES[device] // len(weight)))
        # Fresh memory for every chunk would cost a fifth of the time in page faults.
        raw = torch.empty(rows, len(weight), dtype=dtype, device=weight.device)
        kept = [
            torch.empty(rows, len(weight), dtype=torch.float32, device=weight.device)
            for _ in range(2 if teacher or len(states) > 1 else 1)
        ]

        def log_softmax(state: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
            scores = torch.addmm(bias, state, weight[:, : state.shape[1]].T, out=raw[: len(state)])
            return torch.log_softmax(scores.float(), 1, out=out[: len(state)])

        def backward(n: int, part: slice, grad: Tensor) -> None:
            state = low_states[n][part]
            hidden = state.shape[1]
            grad_bias.add_(grad.sum(0))
            grad = grad.to(dtype)
            if dtype == grad_weight.dtype == grad_states[n].dtype:
                grad_weight[:, :hidden].addmm_(grad.T, state)
                torch.mm(grad, low_weight[:, :hidden], out=grad_states[n][part])
            else:
                grad_weight[:, :hidden] += grad.T @ state
                grad_states[n][part] = grad @ low_weight[:, :hidden]

        if teacher is None:
            taught_states, taught_weight, taught_bias = low_states[0], low_weight, low_bias
        else:
            taught_states = teacher.states.to(dtype)
            taught_weight = teacher.net.classifier_weight.to(dtype)
            taught_bias = teacher.net.classifier_bias.to(dtype)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            target = targets[part, None]
            scores = log_softmax(taught_states[part], taught_weight, taught_bias, kept[0])
            if teacher is None:
                totals[0] -= scores.gather(1, target).sum()
            taught = scores.exp_()
            if teacher is not None and teacher.opinion is not None:
                teacher.opinion.mix_into(taught, part)
            for n in range(0 if teacher else 1, len(states)):
                scores = log_softmax(low_states[n][part], low_weight, low_bias, kept[1])
                totals[n] -= (1 - DISTIL) * scores.gather(1, target).sum()
                totals[n] -= DISTIL * torch.dot(taught.view(-1), scores.view(-1))
                grad = scores.exp_().sub_(taught, alpha=DISTIL)
                backward(n, part, grad.scatter_add_(1, target, grad.new_full(target.shape, DISTIL - 1)))
            if teacher is None:
                # The students are done with these probabilities: the teacher's gradient may overwrite them.
                backward(0, part, taught.scatter_add_(1, target, taught.new_full(target.shape, -1.0)))
        ctx.save_for_backward(grad_weight, grad_bias, *grad_states)
        parts = totals.float()
        ctx.mark_non_differentiable(parts)
        return totals.sum().float(), parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_weight, grad_bias, *grad_states = ctx.saved_tensors
        return grad_weight * grad, grad_bias * grad, None, None, *(g * grad for g in grad_states)


def catalogue_loss(net: Classifier, states: Tensor, targets: Tensor) -> Tensor:
    """L_SR (Eq. 7): cross-entropy over the full catalogue, summed over rows.

    Args:
        net: the supernet or another classifier, which scores the states.
        states: [N, h], h any prefix of the hidden width.
        targets: item ids [N] int64.

    Returns:
        Scalar float32; divide by N for the mean.
    """
    return sandwich_loss(net, [states], targets)[0]


def sandwich_loss(
    net: Classifier, states: Sequence[Tensor], targets: Tensor, teacher: Teacher | None = None
) -> tuple[Tensor, Tensor]:
    """Half cross-entropy with the targets, half distillation from a teacher, for every submodel.

    Without a teacher the first submodel is the teacher of the others, and learns from the targets alone
    (in-place distillation, the sandwich rule of slimmable networks). A teacher's scores are constants.

    Args:
        net: the supernet, whose classifier scores the states.
        states: one [N, h] per submodel.
        targets: item ids [N] int64.
        teacher: teaches all of them.

    Returns:
        The sum over rows and submodels, a scalar, and its parts [submodels] without gradients; float32.
    """
    return _CatalogueLoss.apply(net.classifier_weight, net.classifier_bias, targets, teacher, *states)


def uniform_loss(logits: Tensor) -> Tensor:
    """L_Uni (Eq. 8): cross-entropy of p(route | user) [B, R] with the uniform one, mean over users."""
    return -logits.log_softmax(-1).mean()


def guide_labels(values: int, decay: float) -> Tensor:
    """Soft labels over one dimension's values, exponential from the first: [values], summing to 1."""
    weights = decay ** -torch.arange(values, dtype=torch.float32)
    return weights / weights.sum()


def guide_loss(logits: Tensor, easy: Tensor, space: RoutingSpace) -> Tensor:
    """L_Guide (Eq. 9): easy users towards the smallest values, hard users towards the largest.

    The marginal of each dimension is summed from probabilities, not from logits.

    Args:
        logits: router logits [B, R].
        easy: [B] bool, whether the smallest submodel already ranks the target within k.
        space: the routing space, R routes.

    Returns:
        Scalar, mean over users of the three cross-entropies' sum.
    """
    grid = logits.softmax(-1).view(-1, len(space.embedding), len(space.hidden), len(space.depth))
    loss = logits.new_zeros(())
    for axis, name in enumerate(("embedding", "hidden", "depth"), start=1):
        marginal = grid.sum([other for other in (1, 2, 3) if other != axis])
        small_first = guide_labels(marginal.shape[1], GUIDE_DECAY[name]).to(logits.device)
        label = torch.where(easy[:, None], small_first, small_first.flip(0))
        loss = loss - (label * marginal.clamp_min(1e-9).log()).sum(1).mean()
    return loss


@torch.no_grad()
def easy_users(net: Supernet, seq: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether the true smallest submodel ranks each row's last target within ``k``: [B] bool.

    Runs in eval mode, without dropout; seen items are not masked, so the answer is never hidden.
    """
    training = net.training
    net.eval()
    scores = net.scores(net.last_states(seq, net.config.space.smallest))
    net.train(training)
    return (scores > scores.gather(1, targets[:, -1:])).sum(1) < k
