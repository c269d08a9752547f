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


def paper_mflops(items: int, length: int, route: Route) -> float:
    """MFLOPs of a route of the supernet by the paper's count, to 3 decimals, without the router."""
    return round(2 * paper_macs(items, length, route) / _MEGA, 3)


def sasrec_paper_mflops(items: int, length: int, width: int = FULL_WIDTH, depth: int = FULL_DEPTH) -> float:
    """MFLOPs of a plain SASRec as Table III prints them; the default is its SASRec-full.

    The table doubles MACs that were already rounded to 3 decimals of a million, so its last digit is even.
    """
    macs = paper_macs(items, length, Route(width, width, depth), in_projection=False)
    return round(2 * round(macs / _MEGA, 3), 3)


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
