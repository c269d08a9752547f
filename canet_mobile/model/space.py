"""The routing space: which submodels live inside the supernet (paper III-A)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from canet_mobile.errors import UsageError

HEADS = 4
FFN = 4


@dataclass(frozen=True)
class Route:
    """One submodel of the supernet: the prefix (embedding, hidden, depth) of every weight (paper III-A)."""

    embedding: int
    hidden: int
    depth: int

    @property
    def entry(self) -> str:
        """The route's name in packages, tables and options: ``e64_h96_d4``."""
        return f"e{self.embedding}_h{self.hidden}_d{self.depth}"


@dataclass(frozen=True)
class RoutingSpace:
    """The product embedding × hidden × depth. A route's id is its position, depth innermost.

    Args:
        embedding: embedding widths in ascending order, default the paper's 64/96/128.
        hidden: hidden widths in ascending order; multiples of 4, the number of heads.
        depth: numbers of blocks in ascending order.

    Raises:
        UsageError: a list is empty, unsorted, repeats a value, or holds an impossible one.
    """

    embedding: tuple[int, ...] = (64, 96, 128)
    hidden: tuple[int, ...] = (64, 96, 128)
    depth: tuple[int, ...] = (2, 4, 6, 8)

    def __post_init__(self) -> None:
        for name, step in (("embedding", 1), ("hidden", HEADS), ("depth", 1)):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or values != tuple(sorted(set(values))) or values[0] < 1:
                raise UsageError(
                    f"routing space: {name} = {list(values)} must be positive, ascending and without repeats",
                    fix=f"{name} = {sorted({v for v in values if v > 0}) or [1]}",
                )
            bad = [v for v in values if v % step]
            if bad:
                raise UsageError(
                    f"routing space: {name} = {bad[0]} is not a multiple of {step} (the attention heads)",
                    fix=f"use {-(-bad[0] // step) * step}",
                )

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """Every route, in id order."""
        return tuple(itertools.starmap(Route, itertools.product(self.embedding, self.hidden, self.depth)))

    def __len__(self) -> int:
        return len(self.embedding) * len(self.hidden) * len(self.depth)

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)

    @property
    def smallest(self) -> Route:
        """The route with the least of everything (id 0)."""
        return self.routes[0]

    @property
    def largest(self) -> Route:
        """The whole supernet (the last id)."""
        return self.routes[-1]

    def id_of(self, route: Route) -> int:
        """A route's id.

        Raises:
            UsageError: the route is outside the space.
        """
        try:
            return self.routes.index(route)
        except ValueError:
            raise self._unknown(route.entry) from None

    def named(self, entry: str) -> Route:
        """The route called ``entry``, for example ``e64_h96_d4``.

        Raises:
            UsageError: no route has that name; the nearest one is suggested.
        """
        for route in self.routes:
            if route.entry == entry:
                return route
        raise self._unknown(entry)

    def _unknown(self, entry: str) -> UsageError:
        from canet_mobile.errors import unknown_name

        return unknown_name("route", entry, [route.entry for route in self.routes])

    def to_json(self) -> dict[str, list[int]]:
        """The three lists, for manifests."""
        return {"embedding": list(self.embedding), "hidden": list(self.hidden), "depth": list(self.depth)}

    @classmethod
    def from_json(cls, lists: dict[str, Sequence[int]]) -> RoutingSpace:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(lists["embedding"]), tuple(lists["hidden"]), tuple(lists["depth"]))
