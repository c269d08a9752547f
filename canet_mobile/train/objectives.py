"""What one training step minimises: one function per recipe."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from canet_mobile.data.neighbours import Neighbours, Opinion, newest
from canet_mobile.model.canet import Canet
from canet_mobile.model.losses import (
    Teacher,
    catalogue_loss,
    easy_users,
    guide_loss,
    sandwich_loss,
    uniform_loss,
)
from canet_mobile.model.recommender import Model
from canet_mobile.model.router import sample_routes
from canet_mobile.model.supernet import Supernet
from canet_mobile.run.config import SASREC_RECIPES, TrainConfig

Parts = dict[str, Tensor]
# Share of a batch's rows that train the largest and the smallest route in the recipe `rows`.
LARGEST_ROWS, SMALLEST_ROWS = 0.25, 0.15
# Model and recipe of the runs that follow their weights with an average, and keep that.
AVERAGED = (("canet", "sandwich"), *(("sasrec", recipe) for recipe in SASREC_RECIPES))


def keeps_average(config: TrainConfig) -> bool:
    """Whether an average of the weights runs beside them."""
    return config.average > 0 and (config.model, config.recipe) in AVERAGED


def asks_neighbours(config: TrainConfig) -> bool:
    """Whether an average teaches in this run, and neighbours have a say in it."""
    return keeps_average(config) and config.recipe != "averaged" and config.cooccurrence > 0


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Where the real positions are is told by their numbers, which the host knows: how many a mask holds only
    the device can tell, and would be waited for.

    Args:
        seq, targets: item ids [B, T] int64, left-padded.
        real: numbers of the positions with an item, in ``seq`` laid out flat, [positions] int64.
    """

    seq: Tensor
    targets: Tensor
    real: Tensor

    def at(self, values: Tensor) -> Tensor:
        """Values [B, T, ...] at the real positions, [positions, ...]."""
        return values.flatten(0, 1)[self.real]

    @property
    def wanted(self) -> Tensor:
        """The targets of the real positions, [positions] int64."""
        return self.at(self.targets)


def real_positions(seq: Tensor) -> Tensor:
    """Numbers of the positions of ``seq`` [B, T] that hold an item; on a GPU this waits."""
    return seq.flatten().nonzero()[:, 0]


def plain(canet: Canet, config: TrainConfig, batch: Batch, tutor: Tutor | None) -> Parts:
    """A plain SASRec: full-catalogue cross-entropy at every real position."""
    net = canet.supernet
    states = batch.at(net.sliced(batch.seq, net.config.space.largest))
    return {"loss": catalogue_loss(net, states, batch.wanted) / len(states)}


@torch.no_grad()
def follow(average: nn.Module, weights: nn.Module, step: int, half_life: float) -> None:
    """Move an average of weights towards them; at first it is their plain mean.

    Args:
        average, weights: two modules of the same parameters.
        step: steps taken so far, from 1.
        half_life: of what the average remembers, in steps.
    """
    share = max(1 - 0.5 ** (1 / half_life), 1 / step)
    torch._foreach_lerp_([*average.parameters()], [*weights.parameters()], share)


@dataclass(frozen=True)
class Tutor:
    """Who teaches beside the targets.

    Args:
        average: a supernet that does not learn, as a rule an average of weights; its largest route teaches.
        neighbours: what is mixed into its beliefs; None for nothing.
        share: of the neighbours in that mixture.
    """

    average: Supernet
    neighbours: Neighbours | None
    share: float

    @torch.no_grad()
    def at(self, seq: Tensor, real: Tensor | None = None) -> Teacher:
        """The teacher at every real position of ``seq`` [B, T]; None finds out which these are."""
        real = real_positions(seq) if real is None else real
        opinion = None
        if self.neighbours is not None:
            opinion = Opinion(self.neighbours, newest(seq).flatten(0, 1)[real], self.share)
        states = self.average.sliced(seq, self.average.config.space.largest)
        return Teacher(self.average, states.flatten(0, 1)[real], opinion)


def taught(canet: Canet, config: TrainConfig, batch: Batch, tutor: Tutor | None) -> Parts:
    """A plain SASRec that learns half from the targets, half from the average of its own weights.

    It is the default recipe without routes: what averaging and teaching are worth to one model alone.
    """
    net = canet.supernet
    assert tutor is not None
    states = batch.at(net.sliced(batch.seq, net.config.space.largest))
    teacher = tutor.at(batch.seq, batch.real)
    return {"loss": sandwich_loss(net, [states], batch.wanted, teacher)[0] / len(states)}


def sandwich(canet: Canet, config: TrainConfig, batch: Batch, tutor: Tutor | None) -> Parts:
    """The sandwich rule with distillation: largest, smallest and one random route, at true size.

    They learn from the largest route of the averaged weights; from that of this step, where none are kept.
    """
    net = canet.supernet
    space = net.config.space
    teacher = None if tutor is None else tutor.at(batch.seq, batch.real)
    drawn = space.routes[int(torch.randint(len(space), ()))]
    states = [batch.at(net.sliced(batch.seq, route)) for route in (space.largest, space.smallest, drawn)]
    count = len(states[0])
    loss, (largest, smallest, random) = sandwich_loss(net, states, batch.wanted, teacher)
    # Halved: the three terms weigh about as much as one cross-entropy, so one learning rate fits all recipes.
    parts = {"largest": largest / count, "smallest": smallest / count, "random": random / count}
    return {"loss": loss / (2 * count), **parts}


def rows(canet: Canet, config: TrainConfig, batch: Batch, tutor: Tutor | None) -> Parts:
    """The sandwich rule by rows: each row trains one route, so a step costs less than the full model's."""
    net, seq, targets = canet.supernet, batch.seq, batch.targets
    space, real = net.config.space, batch.seq > 0
    routes = torch.randint(len(space), (len(seq),))
    draw = torch.rand(len(seq))
    routes[draw < LARGEST_ROWS] = space.id_of(space.largest)
    routes[draw > 1 - SMALLEST_ROWS] = space.id_of(space.smallest)
    loss = torch.zeros((), device=seq.device)
    for picked, states, _ in net.grouped(seq, routes.to(seq.device)):
        keep = real[picked]
        loss = loss + catalogue_loss(net, states[keep], targets[picked][keep])
    return {"loss": loss / real.sum()}


def paper(canet: Canet, config: TrainConfig, batch: Batch, tutor: Tutor | None) -> Parts:
    """L_SR + λ1 L_Uni + λ2 L_Guide, jointly over supernet and router (paper Eq. 7-9)."""
    net, router = canet.supernet, canet.router
    assert router is not None
    easy = easy_users(net, batch.seq, batch.targets, config.guide_k)
    logits = router(batch.seq, net.item_table).float()
    alpha = sample_routes(logits, config.tau)
    states = batch.at(net.masked(batch.seq, alpha))
    recommend = catalogue_loss(net, states, batch.wanted) / len(states)
    uniform, guide = uniform_loss(logits), guide_loss(logits, easy, net.config.space)
    return {
        "loss": recommend + config.lambda_uniform * uniform + config.lambda_guide * guide,
        "recommend": recommend.detach(),
        "uniform": uniform.detach(),
        "guide": guide.detach(),
        "easy": easy.float().mean(),
    }


OBJECTIVES: dict[str, Callable[[Canet, TrainConfig, Batch, Tutor | None], Parts]] = {
    "sandwich": sandwich,
    "averaged": plain,
    "taught": taught,
    "rows": rows,
    "paper": paper,
}


class Objective(nn.Module):
    """A recipe as a module, so that DDP, autocast and torch.compile see one forward call.

    The random choices of a step (dropout, routes, Gumbel noise) come from its own seed: a resumed run draws
    what the uninterrupted one would have drawn, without saving any generator.

    ``average`` is a second supernet of no gradients that follows the first one; None where none is kept.
    ``neighbours`` has a say in what it teaches, on the device of the batches; None where nobody asks them.
    """

    def __init__(self, model: Model, config: TrainConfig, neighbours: Neighbours | None = None) -> None:
        super().__init__()
        self.model, self.config, self.neighbours = model, config, neighbours
        self.average: Supernet | None = None
        if isinstance(model, Canet):
            # Sandwich and rows fit the router afterwards; its parameters take no part in the step.
            self.supernet, self.router = model.supernet, model.router if config.recipe == "paper" else None
            if keeps_average(config):
                self.average = deepcopy(model.supernet).requires_grad_(False)
        is_plain = config.model == "sasrec" and config.recipe not in SASREC_RECIPES
        self.recipe = plain if is_plain else OBJECTIVES[config.recipe]

    def forward(
        self,
        seq: Tensor,
        targets: Tensor,
        seed: int,
        users: Tensor | None = None,
        real: Tensor | None = None,
    ) -> Parts:
        """Loss parts of one batch; ``loss`` is the one to minimise.

        Args:
            seq, targets: item ids [B, T] int64.
            seed: of the step.
            users: numbers of the histories [B] int64; only a method with factors per user needs them.
            real: as of :class:`Batch`; None finds out.
        """
        torch.manual_seed(seed)
        if isinstance(self.model, Canet):
            batch = Batch(seq, targets, real_positions(seq) if real is None else real)
            return self.recipe(self.model, self.config, batch, self._tutor())
        return self.model.loss(seq, targets, torch.zeros_like(seq[:, 0]) if users is None else users)

    def _tutor(self) -> Tutor | None:
        if self.average is None:
            return None
        return Tutor(self.average, self.neighbours, self.config.cooccurrence)

    def train(self, mode: bool = True) -> Objective:
        """Switch dropout on or off; the average, which teaches, never has any."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    @property
    def kept(self) -> Model:
        """The model that is validated and kept: with averaged weights, where there are any."""
        if self.average is None or not isinstance(self.model, Canet):
            return self.model
        return replace(self.model, supernet=self.average)

    @torch.no_grad()
    def follow(self, step: int, steps_per_epoch: int) -> None:
        """Move the average towards the weights; at first it is their plain mean.

        Args:
            step: steps taken so far, from 1.
            steps_per_epoch: the unit of ``config.average``.
        """
        if self.average is not None:
            follow(self.average, self.supernet, step, self.config.average * steps_per_epoch)
