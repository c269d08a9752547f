"""Where the matrices of a package's graphs come from: slices of the model's full tensors, each made once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import GROUP, Quantized, parameters


@dataclass(frozen=True)
class Slice:
    """Where a leaf's weight stands in the full tensor: rows [:rows], columns [start:stop].

    Args:
        name: the full tensor's name, as in :func:`canet_mobile.model.integers.parameters`.
        rows: number of leading rows.
        start: first column.
        stop: one past the last column.
        part: index along the leading axis (q, k, v), None for a plain matrix.
    """

    name: str
    rows: int
    start: int
    stop: int
    part: int | None = None

    def of(self, full: Tensor) -> Tensor:
        """The slice, in storage of its own."""
        matrix = full if self.part is None else full[self.part]
        return own_storage(matrix[: self.rows, self.start : self.stop])

    def of_integers(self, full: Quantized) -> Quantized:
        """The slice of integers and scales, in storage of their own: scales [rows, 1], or [rows, groups]."""
        groups = Slice(self.name, self.rows, 0, 1, self.part)
        if full.bits == 4:
            groups = Slice(self.name, self.rows, self.start // GROUP, self.stop // GROUP, self.part)
        return Quantized(self.of(full.values), groups.of(full.scale), full.bits)


def own_storage(tensor: Tensor) -> Tensor:
    """A contiguous copy. PyTorch would do with a view; serializers write its storage from the start."""
    return tensor.clone(memory_format=torch.contiguous_format)


class Leaf(nn.Module):
    """A matrix of the graph that knows its :class:`Slice`, so that a target can impose the integers on it."""

    def __init__(self, weight: Tensor, source: Slice, bias: Tensor | None = None) -> None:
        super().__init__()
        self.source = source
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


class Linear(Leaf):
    """x [..., in] -> [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(Leaf):
    """ids [...] int64 -> [..., columns]."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class Weights:
    """Slices of a model's tensors, each made once: routes of equal width hold the very same tensor."""

    def __init__(self, canet: Canet) -> None:
        self.full = parameters(canet)
        self.made: dict[Slice | tuple[str, int, int], Tensor] = {}  # a vector is (name, size, row or -1)

    def matrix(self, source: Slice) -> Tensor:
        """The contiguous slice of a matrix."""
        if source not in self.made:
            self.made[source] = source.of(self.full[source.name])
        return self.made[source]

    def vector(self, name: str, size: int, part: int | None = None) -> Tensor:
        """The first ``size`` entries of a vector, or of row ``part`` of a matrix."""
        key = (name, size, -1 if part is None else part)
        if key not in self.made:
            full = self.full[name] if part is None else self.full[name][part]
            self.made[key] = own_storage(full[:size])
        return self.made[key]

    def linear(self, name: str, rows: int, columns: int, part: int | None = None) -> Linear:
        """The prefix [rows, columns] of ``<name>_weight`` with the prefix of its bias."""
        source = Slice(f"{name}_weight", rows, 0, columns, part)
        return Linear(self.matrix(source), source, self.vector(f"{name}_bias", rows, part))


def panels(widths: tuple[int, ...], width: int) -> list[tuple[int, int]]:
    """Column panels of a nested table: (0, 64), (64, 96) for width 96 of 64/96/128."""
    edges = [0, *[w for w in widths if w <= width]]
    return list(itertools.pairwise(edges))


def leaves(graph: nn.Module) -> Iterator[Leaf]:
    """Every matrix of a graph that came from the model."""
    return (module for module in graph.modules() if isinstance(module, Leaf))
