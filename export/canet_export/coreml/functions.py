"""The functions of a package: one per route and the router, as static ML Program graphs.

Same computation as :mod:`canet_export.graph`: item table and classifier are nested column panels, blocks are
contiguous prefix slices, masks are constants plus -1e4 on padding, the last block computes its last position.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from canet_export.coreml.builder import Body, Precision, Store, Var, zeros
from canet_export.job import Job
from canet_export.slices import Slice, panels
from canet_mobile.model.integers import ROUTER_TABLE, TABLE
from canet_mobile.model.layers import LAYER_NORM_EPS, MASK_FUTURE, MASK_PAD
from canet_mobile.model.points import POINT_INPUT
from canet_mobile.model.space import FFN, HEADS, Route
from canet_mobile.model.supernet import PAD_CLASS_BIAS

CLASSIFIER = "supernet.own_classifier"


def table_cuts(job: Job, width: int, *, shared: bool, other: int | None = None) -> list[tuple[int, int]]:
    """The column panels of the item table that hold its first ``width`` columns.

    A tied table is also cut where the classifier needs it, so that one copy serves both. A file of one
    function (not ``shared``) shares nothing with others and takes the columns in one piece, or in two where
    they are tied to ``other``, the width of the route's classifier.
    """
    config = job.canet.supernet.config
    edges = config.space.embedding
    if config.tied:
        edges = tuple(sorted({*edges, *config.space.hidden}))
    if not shared:
        edges = tuple(sorted({width, min(width, other or width)})) if config.tied else (width,)
    enough = next((edge for edge in edges if edge >= width), edges[-1])
    return panels(edges, enough)


def classifier_cuts(job: Job, route: Route, *, shared: bool) -> list[tuple[int, int]]:
    """The column panels of the classifier of a route."""
    config = job.canet.supernet.config
    if config.tied or not shared:
        return table_cuts(job, route.hidden, shared=shared, other=route.embedding)
    return panels(config.space.hidden, route.hidden)


def route_function(store: Store, route: Route, precision: Precision, opset: Any) -> Any:
    """seq [1, L] int32 -> scores [1, k] float32, ids [1, k] int32, best first."""
    config, job = store.job.canet.supernet.config, store.job
    h = route.hidden
    with _function(store, opset) as function:
        body, seq = Body(store, precision), function.inputs["seq"]
        cuts = table_cuts(job, route.embedding, shared=store.shared, other=h)
        x = _embedded(body, seq, TABLE, cuts)
        x = body.op("add", "x", x=x, y=_positions(body, "supernet.positions", route.embedding))
        if config.in_projection:
            x = _linear(body, "in", "supernet.in", x, h, route.embedding)
        pad = _pad_mask(body, seq)
        mask = pad
        if route.depth > 1:  # the last block asks for the last position, which has no future
            future = torch.full((1, 1, config.length, config.length), MASK_FUTURE).triu(1)
            mask = body.op("add", "mask", x=pad, y=body.constant("future", "future", future))
        for n in range(route.depth):
            last = n == route.depth - 1
            x = _block(body, f"b{n}", f"supernet.blocks.{n}", x, pad if last else mask, h, last)
        scores = _scores(body, x, route)
        if job.seen == "exclude":  # padding marks class 0, which is never recommended anyway
            lowest = body.constant("excluded", "low", torch.full((1, config.length), PAD_CLASS_BIAS))
            scores = body.op(
                "scatter_along_axis", "rest", data=scores, indices=seq, updates=lowest,
                axis=1, mode="update", validate_indices=False,
            )  # fmt: skip
        # Not uint16, which coremltools' own conversion chooses where the ids happen to fit.
        values, ids = body.op(
            "topk", "top", x=scores, k=job.k, axis=1, ascending=False, sort=True,
            return_indices=True, output_indices_dtype="int32",
        )  # fmt: skip
        if precision == "fp16":
            values = body.op("cast", "scores", x=values, dtype="fp32")
        values.name, ids.name = "scores", "ids"
        function.set_outputs([values, ids])
    return function


def router_function(store: Store, opset: Any) -> Any:
    """seq [1, L] int32, point [1] int32 -> route [1] int32.

    In fp32: its argmax should not depend on rounding. A plain SASRec has nothing to choose and always answers
    0, of the same inputs.
    """
    job, length = store.job, store.job.canet.supernet.config.length
    point = store.kit.mb.placeholder(shape=(1,), dtype=store.kit.types.int32)
    with _function(store, opset, **{POINT_INPUT: point}) as function:
        body, seq, point = Body(store, "fp32"), function.inputs["seq"], function.inputs[POINT_INPUT]
        if job.canet.router is None:
            last = body.op("slice_by_index", "last", x=seq, begin=[0, length - 1], end=[1, length],
                           squeeze_mask=np.array([True, False]))  # fmt: skip
            both = body.op("add", "both", x=last, y=point)  # an input that nothing takes may be dropped
            route = body.op("mul", "route", x=both, y=np.int32(0))
        else:
            route = _route(body, seq, point)
        function.set_outputs([route])
    return function


def _route(body: Body, seq: Var, point: Var) -> Var:
    store = body.store
    router = store.job.canet.router
    assert router is not None
    own, width = router.config.table == "own", router.config.width
    cuts = [(0, width)] if own else table_cuts(store.job, width, shared=store.shared)
    x = _embedded(body, seq, ROUTER_TABLE if own else TABLE, cuts)
    if x.shape[-1] != width:
        end = [1, seq.shape[1], width]
        x = body.op("slice_by_index", "narrow", x=x, begin=[0, 0, 0], end=end)
    table_scale = 1.0 if own else float(store.full["router.table_scale"])
    if table_scale != 1.0:
        x = body.op("mul", "scaled", x=x, y=np.float32(table_scale))
    x = body.op("add", "x", x=x, y=_positions(body, "router.positions", width))
    x = _block(body, "b0", "router.block", x, _pad_mask(body, seq), width, True)
    routes = len(store.full["router.head_bias"])
    x = _linear(body, "head", "router.head", x, routes, width)
    logits = body.op("reshape", "logits", x=x, shape=[1, routes])
    points = body.constant("router.points", "points", store.full["router.points"])
    logits = body.op("add", "at", x=logits, y=body.gathered(points, point, "offsets"))
    return body.op("reduce_argmax", "route", x=logits, axis=1, keep_dims=False, output_dtype="int32")


def _function(store: Store, opset: Any, **others: Any) -> Any:
    length = store.job.canet.supernet.config.length
    kit = store.kit
    seq = kit.mb.placeholder(shape=(1, length), dtype=kit.types.int32)
    return kit.Function({"seq": seq, **others}, opset_version=opset)


def _embedded(body: Body, seq: Var, table: str, cuts: list[tuple[int, int]]) -> Var:
    """[1, L, columns of all panels]."""
    rows = len(body.store.full[table])
    found = [body.rows(Slice(table, rows, *cut), seq, f"e{n}") for n, cut in enumerate(cuts)]
    return found[0] if len(found) == 1 else body.op("concat", "e", values=found, axis=2, interleave=False)


def _positions(body: Body, name: str, width: int) -> Var:
    full = body.store.full[name]
    source = Slice(name, len(full), 0, width)
    return body.constant(f"{name}[{width}]", "pos", source.of(full))


def _pad_mask(body: Body, seq: Var) -> Var:
    """[1, 1, 1, L]: -1e4 on padding."""
    is_pad = body.op("cast", "p", x=body.op("equal", "is_pad", x=seq, y=np.int32(0)), dtype=body.precision)
    return body.op(
        "expand_dims", "pad", x=body.op("mul", "pm", x=is_pad, y=body.number(MASK_PAD)), axes=[1, 2]
    )


def _linear(
    body: Body, name: str, prefix: str, x: Var, rows: int, columns: int, part: int | None = None
) -> Var:
    weight = body.matrix(Slice(f"{prefix}_weight", rows, 0, columns, part), f"{name}_w")
    bias = body.vector(f"{name}_b", f"{prefix}_bias", rows, part)
    return body.op("linear", name, x=x, weight=weight, bias=bias)


def _norm(body: Body, name: str, prefix: str, x: Var, width: int) -> Var:
    gamma = body.vector(f"{name}_g", f"{prefix}_weight", width)
    beta = body.vector(f"{name}_h", f"{prefix}_bias", width)
    epsilon = body.number(LAYER_NORM_EPS)
    return body.op("layer_norm", name, x=x, axes=[2], gamma=gamma, beta=beta, epsilon=epsilon)


def _block(body: Body, name: str, prefix: str, x: Var, mask: Var, h: int, last: bool) -> Var:
    """One block (paper Eq. 1, lambda folded); channel c belongs to head c mod 4.

    x [1, L, h], mask [1, 1, L or 1, L] -> [1, L, h], or [1, 1, h] with ``last``.
    """
    length, channels = x.shape[1], h // HEADS
    asked, queries = x, length
    if last:
        asked = body.op("slice_by_index", f"{name}_last", x=x, begin=[0, length - 1, 0], end=[1, length, h])
        queries = 1

    def heads(letter: str, part: int, source: Var, time: int) -> Var:
        made = _linear(body, f"{name}_{letter}", f"{prefix}.qkv", source, h, h, part)
        made = body.op("reshape", f"{name}_{letter}r", x=made, shape=[1, time, channels, HEADS])
        return body.op("transpose", f"{name}_{letter}t", x=made, perm=[0, 3, 1, 2])

    q, k, v = heads("q", 0, asked, queries), heads("k", 1, x, length), heads("v", 2, x, length)
    products = body.op("matmul", f"{name}_qk", x=q, y=k, transpose_x=False, transpose_y=True)
    products = body.op("mul", f"{name}_qs", x=products, y=body.number(1 / math.sqrt(channels)))
    products = body.op("add", f"{name}_qm", x=products, y=mask)
    attention = body.op("softmax", f"{name}_a", x=products, axis=3)
    mixed = body.op("matmul", f"{name}_av", x=attention, y=v, transpose_x=False, transpose_y=False)
    mixed = body.op("transpose", f"{name}_mt", x=mixed, perm=[0, 2, 3, 1])
    mixed = body.op("reshape", f"{name}_m", x=mixed, shape=[1, queries, h])
    mixed = _linear(body, f"{name}_o", f"{prefix}.out", mixed, h, h)
    x = body.op("add", f"{name}_r1", x=asked, y=mixed)
    x = _norm(body, f"{name}_n1", f"{prefix}.norm1", x, h)
    inside = _linear(body, f"{name}_f1", f"{prefix}.ffn1", x, FFN * h, h)
    inside = body.op("gelu", f"{name}_g", x=inside, mode="EXACT")
    out = _linear(body, f"{name}_f2", f"{prefix}.ffn2", inside, h, FFN * h)
    x = body.op("add", f"{name}_r2", x=x, y=out)
    return _norm(body, f"{name}_n2", f"{prefix}.norm2", x, h)


def _scores(body: Body, x: Var, route: Route) -> Var:
    """Scores of every class [1, V+1] from the last position's state [1, 1, hidden]."""
    store = body.store
    config = store.job.canet.supernet.config
    classes = config.items + 1
    cuts = classifier_cuts(store.job, route, shared=store.shared)
    x = body.op("reshape", "state", x=x, shape=[1, route.hidden])
    pieces = [x] if len(cuts) == 1 else _split(body, x, [stop - start for start, stop in cuts])
    bias = body.vector("bias", "supernet.classifier_bias", classes)
    scores = None
    for n, (piece, cut) in enumerate(zip(pieces, cuts, strict=True)):
        weight = body.matrix(Slice(TABLE if config.tied else CLASSIFIER, classes, *cut), f"s{n}_w")
        part = body.op("linear", f"s{n}", x=piece, weight=weight, bias=bias)
        scores = part if scores is None else body.op("add", f"s{n}_sum", x=scores, y=part)
        if n == 0 and len(cuts) > 1:
            bias = body.constant(f"zeros[{classes}]", "zeros", zeros(classes))
    return scores


def _split(body: Body, x: Var, sizes: list[int]) -> list[Var]:
    return list(body.op("split", "u", x=x, split_sizes=sizes, axis=1))
