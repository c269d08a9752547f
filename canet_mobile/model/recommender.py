"""What training and evaluation need of a model that ranks the catalogue, whatever is inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.model.canet import Canet


class Classifier(Protocol):
    """Scores of every class are ``states @ classifier_weight.T + classifier_bias``."""

    @property
    def classifier_weight(self) -> Tensor:
        """[V+1, H]; row 0 is padding."""

    @property
    def classifier_bias(self) -> Tensor:
        """[V+1]; entry 0 is so low that padding is never recommended."""


class Recommender(Protocol):
    """A compared method: an ``nn.Module`` that reads histories and scores items.

    ``seq`` is left-padded item ids [B, T], T <= length, and ``users`` the histories' numbers [B] int64, which
    only a method with factors of its own for every user looks at. ``rule`` says in words how a method decides
    for each request what it computes; None where all cost the same.
    """

    name: str
    rule: str | None
    items: int
    length: int

    @property
    def classifier_bias(self) -> Tensor:
        """[V+1], as in :class:`Classifier`."""

    def loss(self, seq: Tensor, targets: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Loss parts of one batch, targets [B, T]; ``loss`` is the one to minimise."""

    def last_states(self, seq: Tensor, users: Tensor) -> Tensor:
        """All that ranking needs of each history: [B, H]."""

    def scores(self, states: Tensor) -> Tensor:
        """Scores of every class: [B, H] -> [B, V+1]; class 0 never wins."""

    def mflops(self, seq: Tensor) -> NDArray[np.float64]:
        """What each request costs, [B] MFLOPs by the paper's count."""

    def eval(self) -> Any:
        """Switch to inference."""


@runtime_checkable
class SearchesSizes(Protocol):
    """A compared method that searches its sizes before it is trained; an untrained one then takes them."""

    def prepare_search(self, counts: NDArray[np.int64]) -> None:
        """Look at the training interactions of every item, [V+1]."""

    def search(self, config: Any, windows: Any, fabric: Any) -> Iterator[tuple[int, int, int, float]]:
        """Search; yields (epoch, step, steps, loss) after every step."""

    def found(self) -> dict[str, Any]:
        """What was found, for the run's manifest; ``items`` counts the items of each size."""

    def take(self, searched: Any) -> None:
        """Have the sizes that another one found."""


Model = Canet | Recommender


def parts_of(model: Model) -> dict[str, nn.Module]:
    """The modules of a model by the names that its tensors have in a checkpoint."""
    if isinstance(model, Canet):
        both: dict[str, nn.Module | None] = {"supernet": model.supernet, "router": model.router}
        return {name: module for name, module in both.items() if module is not None}
    return {"model": cast(nn.Module, model)}


def move(model: Model, device: torch.device) -> Model:
    """Move a model's weights, in place; returns it."""
    for part in parts_of(model).values():
        part.to(device)
    return model
