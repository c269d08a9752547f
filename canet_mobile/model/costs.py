"""What a route costs: the paper's figure and the figure of the graph that runs. The two are never mixed.

All figures are for one user and one request, in MFLOPs = 2 × multiply-accumulates (MACs) / 10^6.

``paper_mflops`` follows Table III: the classifier over V+1 classes at the last position, and at every
position of every block 12h² + 4224 MACs (projections and FFN). The 4224 term reproduces the printed table but
matches nothing in the released model; attention products, LayerNorm and biases are not in it.

``executed_mflops`` counts the matrix products of the exported graph: the projections of every block at every
position, except that the last block needs q, the output projection and the FFN at the last position only, and
the products QK^T and AV. LayerNorm (also where a target writes it as a linear), biases, GELU, softmax, top-k
and table look-ups are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from canet_mobile.model.router import ROUTER_WIDTH
from canet_mobile.model.space import FFN, Route, RoutingSpace

UNEXPLAINED_MACS = 4224
FULL_WIDTH, FULL_DEPTH = 128, 8
_BLOCK = 4 + 2 * FFN  # q, k, v, o and the two matrices of the FFN, in units of h²
_KEYS_VALUES = 2
_MEGA = 1e6


def paper_macs(items: int, length: int, route: Route, *, in_projection: bool = True) -> int:
    """MACs of one request as the paper counts them: h(V+1) + L·d·(12h² + 4224) + L·e·h.

    Args:
        items: number of items V.
        length: input length L.
        route: the submodel.
        in_projection: count the input projection L·e·h, which a plain SASRec does not have.
    """
    hidden = route.hidden
    macs = hidden * (items + 1) + length * route.depth * (_BLOCK * hidden**2 + UNEXPLAINED_MACS)
    return macs + length * route.embedding * hidden if in_projection else macs


def table_mflops(macs: float) -> float:
    """MFLOPs as Table III prints them: twice the MACs, which were already rounded to 3 decimals of a million.

    That is why the last digit of a printed figure is even.
    """
    return round(2 * round(macs / _MEGA, 3), 3)


def paper_mflops(items: int, length: int, route: Route) -> float:
    """MFLOPs of a route of the supernet by the paper's count, to 3 decimals, without the router."""
    return round(2 * paper_macs(items, length, route) / _MEGA, 3)


def sasrec_paper_mflops(items: int, length: int, width: int = FULL_WIDTH, depth: int = FULL_DEPTH) -> float:
    """MFLOPs of a plain SASRec as Table III prints them; the default is its SASRec-full."""
    return table_mflops(paper_macs(items, length, Route(width, width, depth), in_projection=False))


def fpmc_paper_macs(items: int, width: int = FULL_WIDTH) -> int:
    """MACs of FPMC: two products of ``width`` channels for every item."""
    return 2 * width * items


def gru4rec_paper_macs(items: int, length: int, width: int = FULL_WIDTH, hidden: int = 2 * FULL_WIDTH) -> int:
    """MACs of GRU4Rec: h(V+1) and, at every position, two GRU layers without bias and the projection back.

    A layer costs its two matrix products for three gates, and 7 elementwise operations a unit.
    """
    layers = [3 * hidden * (inside + hidden) + 7 * hidden for inside in (width, hidden)]
    return width * (items + 1) + length * (sum(layers) + hidden * width)


def nextitnet_paper_macs(items: int, length: int, width: int = FULL_WIDTH, blocks: int = FULL_DEPTH) -> int:
    """MACs of NextItNet: h(V+1) and, at every position, 4 convolutions a block of 3 taps, bias counted."""
    return width * (items + 1) + length * 4 * blocks * (3 * width + 1) * width


def skiprec_paper_macs(items: int, length: int, width: int, depth: int, kept: int) -> int:
    """MACs of SkipRec for a user who keeps ``kept`` of ``depth`` layers: a SASRec that deep, and the policy.

    The policy network is as large as CANet's router and is counted like it, with two outputs a layer.
    """
    backbone = paper_macs(items, length, Route(width, width, kept), in_projection=False)
    return backbone + router_paper_macs(length, 2 * depth)


def autodim_paper_macs(
    items: int, length: int, width: int, depth: int, mean_size: float, sizes: Iterable[int], *, tied: bool
) -> float:
    """MACs of AutoDim: a SASRec, and the projection of the input items from their own sizes.

    Args:
        items, length, width, depth: as for a plain SASRec.
        mean_size: embedding size of an item, averaged over the catalogue.
        sizes: the sizes there are; a tied classifier projects the state to each and scores at an item's own.
        tied: whether items are scored with the item table.
    """
    plain = paper_macs(items, length, Route(width, width, depth), in_projection=False)
    macs = plain + length * mean_size * width
    return macs + (mean_size - width) * (items + 1) + width * sum(sizes) if tied else macs


def router_paper_macs(length: int, routes: int) -> int:
    """MACs of the router by the paper's count: 12·32² per position and its head, without the 4224 term.

    The head is counted as a classifier is, with one class more than it has (32·(routes + 1)), which is how
    the reference figures were made; against 32·routes this never shows in the 3 decimals of the router.
    """
    return length * _BLOCK * ROUTER_WIDTH**2 + ROUTER_WIDTH * (routes + 1)


def router_paper_mflops(length: int, routes: int) -> float:
    """MFLOPs of the router by the paper's count, to 3 decimals."""
    return round(2 * router_paper_macs(length, routes) / _MEGA, 3)


def routed_paper_mflops(items: int, length: int, route: Route, routes: int) -> float:
    """MFLOPs of the router and the route it picked together, by the paper's count, to 3 decimals."""
    macs = paper_macs(items, length, route) + router_paper_macs(length, routes)
    return round(2 * macs / _MEGA, 3)


def _executed_block_macs(length: int, hidden: int, depth: int) -> int:
    inner = length * _BLOCK * hidden**2 + 2 * length**2 * hidden
    last = (length * _KEYS_VALUES + _BLOCK - _KEYS_VALUES) * hidden**2 + 2 * length * hidden
    return (depth - 1) * inner + last


def executed_macs(items: int, length: int, route: Route, *, in_projection: bool = True) -> int:
    """MACs of the matrix products in a route's exported graph."""
    hidden = route.hidden
    macs = _executed_block_macs(length, hidden, route.depth) + hidden * (items + 1)
    return macs + length * route.embedding * hidden if in_projection else macs


def executed_mflops(items: int, length: int, route: Route, *, in_projection: bool = True) -> float:
    """MFLOPs of the matrix products in a route's exported graph, to 3 decimals, without the router."""
    return round(2 * executed_macs(items, length, route, in_projection=in_projection) / _MEGA, 3)


def sasrec_executed_mflops(
    items: int, length: int, width: int = FULL_WIDTH, depth: int = FULL_DEPTH
) -> float:
    """MFLOPs of the matrix products in the exported graph of a plain SASRec; the default is SASRec-full."""
    return executed_mflops(items, length, Route(width, width, depth), in_projection=False)


def router_executed_mflops(length: int, routes: int) -> float:
    """MFLOPs of the matrix products in the router's exported graph, to 3 decimals."""
    return round(2 * (_executed_block_macs(length, ROUTER_WIDTH, 1) + ROUTER_WIDTH * routes) / _MEGA, 3)


def route_costs(
    items: int, length: int, routes: Iterable[Route], *, in_projection: bool = True
) -> list[dict[str, Any]]:
    """One row per route: id, entry, embedding, hidden, depth, paper_mflops, executed_mflops.

    Without an input projection (a plain SASRec) the paper's figure is that of :func:`sasrec_paper_mflops`.
    """
    return [
        {
            "id": number,
            "entry": route.entry,
            "embedding": route.embedding,
            "hidden": route.hidden,
            "depth": route.depth,
            "paper_mflops": paper_mflops(items, length, route)
            if in_projection
            else sasrec_paper_mflops(items, length, route.hidden, route.depth),
            "executed_mflops": executed_mflops(items, length, route, in_projection=in_projection),
        }
        for number, route in enumerate(routes)
    ]


def cost_document(items: int, length: int, space: RoutingSpace) -> dict[str, Any]:
    """Costs of a routing space as a document of schemas/costs.schema.json."""
    return {
        "schema_version": 1,
        "kind": "costs",
        "items": items,
        "length": length,
        "space": space.to_json(),
        "sasrec_full_paper_mflops": sasrec_paper_mflops(items, length),
        "sasrec_full_executed_mflops": sasrec_executed_mflops(items, length),
        "router_paper_mflops": router_paper_mflops(length, len(space)),
        "router_executed_mflops": router_executed_mflops(length, len(space)),
        "routes": route_costs(items, length, space),
    }
