"""Figures that are equal but for rounding, and the best of equals: the same choice on every processor.

The last bits of a sum of floats hang on the order of its terms, and NumPy's OpenBLAS adds in another order on
another processor: it has kernels of its own for AVX-512. A choice must not hang on these bits. So wherever
code of this project takes the best of several figures, or holds a figure against a limit, it does so here.
(The router itself takes its exact argmax, the lowest id on ties: that is part of a package's format.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

# Figures that differ by less are equal: NDCG@10 in [0, 1], its gains, shares of users, or costs, of which it
# is the relative difference from 1 on. Means over 10 million users round by less than a thousandth of it.
TOLERANCE = 1e-9
# The same, relative, of what a network computes of one user in float32: two equal histories in batches of
# another form may differ by this much.
SINGLE = 1e-5

Row = TypeVar("Row")


def exceeds(figure: float, other: float) -> bool:
    """Whether a figure is larger than another by more than rounding."""
    return figure - other > TOLERANCE * max(1.0, abs(figure), abs(other))


def at_most(figure: float, limit: float) -> bool:
    """Whether a figure is no larger than a limit, but for rounding."""
    return not exceeds(figure, limit)


def best(rows: Iterable[Row], *figures: Callable[[Row], float]) -> Row:
    """The row of the highest first figure; of those that equal it, of the highest second one, and so on.

    Args:
        rows: one or more; of those that are equal in everything, the first is taken.
        figures: what is compared, the most important first.

    Raises:
        ValueError: there are no rows.
    """
    left = list(rows)
    if not left:
        raise ValueError("the best of no rows")
    for figure in figures:
        values = [figure(row) for row in left]
        top = max(values)
        left = [row for row, value in zip(left, values, strict=True) if at_most(top, value)]
    return left[0]


def above(values: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    """Which of a network's figures, [n], are larger than a limit by more than float32 rounds."""
    return values - limit > SINGLE * max(1.0, abs(limit))
