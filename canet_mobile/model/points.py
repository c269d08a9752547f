"""Operating points: several prices of computation for one trained model, so that an app follows its battery.

A point is a row of offsets added to the router's logits before argmax. Every point of a model has the same
submodels and the same router, so switching costs nothing and needs no training and no export.
"""

from __future__ import annotations

from canet_mobile.errors import unknown_name

POINTS = ("saver", "balanced", "best")
BALANCED = POINTS.index("balanced")
POINT_INPUT = "point"  # the second input of every package's router: int32 [1], an index into POINTS


def point_id(name: str) -> int:
    """The index of an operating point: the router's second input.

    Raises:
        UsageError: there is no such point.
    """
    if name not in POINTS:
        raise unknown_name("operating point", name, POINTS)
    return POINTS.index(name)
