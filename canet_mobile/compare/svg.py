"""Inline SVG by a few small functions: scales, marks, text. Colours are CSS classes of the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CHARACTER, LINE = 6.3, 14  # rough width and height of a label in the page's 11 px font


def element(tag: str, content: str = "", **attributes: object) -> str:
    """One element; ``class_`` becomes class, ``_`` in names becomes ``-``, numbers get one decimal."""
    parts = [tag]
    for name, value in attributes.items():
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    head = " ".join(parts)
    return f"<{head}>{content}</{tag}>" if content else f"<{head}/>"


def text(x: float, y: float, label: str, *, anchor: str = "start", class_: str = "label") -> str:
    """A label; y is its baseline."""
    return element("text", escape(label), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def figure(width: float, height: float, title: str, description: str, marks: Sequence[str]) -> str:
    """The SVG of a figure: scales with the page, and is read out as its title and description."""
    inside = element("title", escape(title)) + element("desc", escape(description)) + "".join(marks)
    return element("svg", inside, viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", width="100%")


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` onto pixels from ``start`` to ``stop``, linear or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def size(self, span: float) -> float:
        """Pixels of a span of values, linear scales only."""
        return abs(span * (self.stop - self.start) / (self.high - self.low))

    def ticks(self) -> list[float]:
        """Round values inside the range: 1-2-5 steps, or on a logarithmic scale 1, 2, 5, 10, 20, ..."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            round_values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            return [value for value in round_values if self.low <= value <= self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The range of some values with room at both ends; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def number(value: float) -> str:
    """A tick's label."""
    shown = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if shown in ("-0", "") else shown


@dataclass(frozen=True)
class Box:
    """A rectangle, for keeping labels apart."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two boxes overlap."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def place_label(x: float, y: float, label: str, taken: list[Box], edge: float) -> tuple[float, float, str]:
    """Where to put a point's label so that it meets nothing placed before; its box is added to ``taken``.

    Args:
        x, y: the point.
        label: its text.
        taken: boxes of points and labels already there.
        edge: the right end of the drawing.

    Returns:
        x, baseline y and text anchor.
    """
    width = CHARACTER * len(label)
    tries = []
    for shift in (0, -LINE, LINE, -2 * LINE, 2 * LINE, -3 * LINE, 3 * LINE, -4 * LINE, 4 * LINE):
        tries += [(x + 9, y + shift, "start"), (x - 9, y + shift, "end")]
    first: tuple[float, float, str, Box] | None = None
    for at, middle, anchor in tries:
        left = at if anchor == "start" else at - width
        box = Box(left, middle - LINE / 2, left + width, middle + LINE / 2)
        if box.left < 0 or box.right > edge:
            continue
        first = first or (at, middle, anchor, box)
        if not any(box.meets(other) for other in taken):
            taken.append(box)
            return at, middle + LINE / 4, anchor
    at, middle, anchor, box = first or (x + 9, y, "start", Box(x, y, x, y))
    taken.append(box)
    return at, middle + LINE / 4, anchor
