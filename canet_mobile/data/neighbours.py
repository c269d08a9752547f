"""Neighbours: items that stand close together in training histories, a second opinion for a teacher.

A model that learns from one next item at a time forgets how many others have followed just as often. The
counts of who stands near whom do not, and they are there before the first step. Mixed into what the teacher
believes (:class:`Opinion`), they cost a model nothing once it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.transitions import transitions

# How far apart two items of a history still are neighbours, and how many of a user's newest items are asked.
REACH = 5
FADE = 0.6  # what a place further away is worth, of the place before it
BACKWARD = 0.5  # what an item that came earlier is worth, of one that came later
NEAREST = 50  # neighbours kept of each item


@dataclass(frozen=True)
class Neighbours:
    """The strongest neighbours of every item.

    Args:
        items: [V+1, K] int32, the strongest first; 0 where an item has fewer.
        shares: [V+1, K] float32, the weight of each in that of all of the item's neighbours; 0 for none.
    """

    items: Tensor
    shares: Tensor

    def to(self, device: torch.device) -> Neighbours:
        """The same on another device."""
        return Neighbours(self.items.to(device), self.shares.to(device))


def find_neighbours(dataset: Dataset) -> Neighbours:
    """Count who stands near whom in the training histories.

    Items d places apart are worth FADE^(d-1), half of that to the later one of the two.
    """
    width = dataset.num_items + 1
    rows, columns, worth = [], [], []
    for distance in range(1, REACH + 1):
        before, after, counts = transitions(dataset, distance)
        value = FADE ** (distance - 1) * counts
        rows += [before, after]
        columns += [after, before]
        worth += [value, BACKWARD * value]
    keys, where = np.unique(np.concatenate(rows) * width + np.concatenate(columns), return_inverse=True)
    weights = np.bincount(where, np.concatenate(worth), minlength=len(keys))
    item, neighbour = np.divmod(keys, width)
    order = np.lexsort((neighbour, -weights, item))
    item, neighbour, weights = item[order], neighbour[order], weights[order]
    place = np.arange(len(item)) - np.searchsorted(item, item)
    total = np.bincount(item, weights, minlength=width)
    kept = place < NEAREST
    items, shares = np.zeros((width, NEAREST), np.int32), np.zeros((width, NEAREST), np.float32)
    items[item[kept], place[kept]] = neighbour[kept]
    shares[item[kept], place[kept]] = (weights / total[item])[kept]
    return Neighbours(torch.from_numpy(items), torch.from_numpy(shares))


def newest(seq: Tensor) -> Tensor:
    """The newest REACH items at every position, itself first: [B, T] -> [B, T, REACH], 0 for none."""
    padded = torch.nn.functional.pad(seq, (REACH - 1, 0))
    return padded.unfold(1, REACH, 1).flip(-1)


@dataclass(frozen=True)
class Opinion:
    """What the neighbours of a user's newest items say comes next, and how much it counts.

    Args:
        neighbours: of every item.
        recent: the newest items at each of N positions, [N, REACH] int64, the newest first, 0 for none.
        share: of the mixture, in [0, 1].
    """

    neighbours: Neighbours
    recent: Tensor
    share: float

    def mix_into(self, beliefs: Tensor, part: slice) -> None:
        """Replace ``share`` of what a teacher believes at some positions by this opinion, in place.

        Positions of which no item has a neighbour keep what they have.

        Args:
            beliefs: probabilities [n, V+1] float32.
            part: which n of the N positions.
        """
        recent = self.recent[part]
        fading = FADE ** torch.arange(REACH, device=recent.device)
        weights = self.neighbours.shares[recent] * fading[:, None]
        total = weights.sum((1, 2))
        share = self.share * (total > 0)
        weights = weights * (share / total.clamp_min(1e-9))[:, None, None]
        beliefs.mul_(1 - share[:, None])
        beliefs.scatter_add_(1, self.neighbours.items[recent].long().flatten(1), weights.flatten(1))
