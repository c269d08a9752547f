"""The chosen route: embedding, blocks to its depth, classifier panels to its width, top k."""

from __future__ import annotations

import numpy as np

from canet_export.graph import panels
from canet_export.onnx.blocks import Block, cut_block, fixed_block, last_position, run_block
from canet_export.onnx.nodes import Graph
from canet_export.onnx.numbers import ZERO_POINT, Matrix, Numbers
from canet_export.onnx.prefixes import Prefixes
from canet_export.onnx.products import Operand, hold, multiply
from canet_mobile.model.layers import MASK_FUTURE, MASK_PAD
from canet_mobile.model.supernet import PAD_CLASS_BIAS

FLOAT = 1  # TensorProto.FLOAT
LAST = np.iinfo(np.int32).max


def pad_mask(graph: Graph, seq: str) -> str:
    """[N, 1, 1, L] float32: -1e4 on padding."""
    is_pad = graph.node("Cast", graph.node("Equal", seq, graph.scalar("pad_id", 0, np.int32)), to=FLOAT)
    scaled = graph.node("Mul", is_pad, graph.scalar("pad_mask", MASK_PAD, np.float32))
    return graph.node("Unsqueeze", scaled, graph.integers(1, 2))


def first_columns(graph: Graph, x: str, width: int) -> str:
    """[..., width]."""
    return graph.node("Slice", x, graph.integers(0), graph.integers(width), graph.integers(-1))


def columns(graph: Graph, x: str, start: int, stop: int) -> str:
    """[..., stop - start]."""
    return graph.node("Slice", x, graph.integers(start), graph.integers(stop), graph.integers(-1))


def looked_up(graph: Graph, matrix: Matrix, seq: str) -> str:
    """Rows of an item table [V+1, width] -> [N, L, width] float32."""
    found = graph.node("Gather", graph.constants.add(matrix.name, matrix.values), seq)
    return _as_floats(graph, matrix, found, seq)


def looked_up_in_panels(graph: Graph, held: list[Matrix], seq: str) -> str:
    """The same from panels [width, V+1], which are the classifier's as well."""
    found = [graph.node("Gather", graph.constants.add(m.name, m.values), seq, axis=1) for m in held]
    joined = found[0] if len(found) == 1 else graph.node("Concat", *found, axis=0)
    return _as_floats(graph, held[0], graph.node("Transpose", joined, perm=[1, 2, 0]), seq)


def _as_floats(graph: Graph, matrix: Matrix, found: str, seq: str) -> str:
    if matrix.kind == "float32":
        return found
    if matrix.kind == "float16":
        return graph.node("Cast", found, to=FLOAT)
    assert matrix.scale is not None
    zero = graph.scalar("zero_point", ZERO_POINT, np.uint8)
    integers = graph.node("DequantizeLinear", found, graph.scalar("one", 1.0, np.float32), zero)
    scales = graph.constants.add(scale_name(matrix.name), matrix.scale)
    scale = graph.node("Unsqueeze", graph.node("Gather", scales, seq), graph.integers(2))
    return graph.node("Mul", integers, scale)


class Body:
    """Writes the route part of a graph.

    Args:
        graph: the main graph.
        numbers: of the job.
        cuts: to the chosen route.
    """

    def __init__(self, graph: Graph, numbers: Numbers, cuts: Prefixes) -> None:
        self.graph, self.numbers, self.cuts = graph, numbers, cuts
        job = numbers.job
        self.depths = sorted({route.depth for route in job.routes})
        self.widths = tuple(sorted({route.hidden for route in job.routes}))
        self.config = job.canet.supernet.config

    def answer(self, items: str, seq: str, pad: str) -> tuple[str, str]:
        """items [N, L, W] (the looked-up table) -> scores [N, k], ids int64 [N, k]."""
        job, graph = self.numbers.job, self.graph
        state = self._blocks(graph, 1, self._projected(items), pad, self._masked(pad))
        scores = self._classified(graph, graph.node("Squeeze", state, graph.integers(1)))
        if job.seen == "exclude":
            never = graph.node("ConstantOfShape", graph.node("Shape", seq), value=_one_value(PAD_CLASS_BIAS))
            scores = graph.node("ScatterElements", scores, seq, never, axis=1)
        values, ids = graph.outputs("TopK", scores, graph.integers(job.k), count=2, axis=-1)
        return values, ids

    def _masked(self, pad: str) -> str:
        """[N, 1, L, L], for every block but the last."""
        length = self.config.length
        if self.depths[-1] == 1:
            return pad
        future = np.triu(np.full((1, 1, length, length), MASK_FUTURE, np.float32), 1)
        return self.graph.node("Add", self.graph.constants.add("future", future), pad)

    def _projected(self, items: str) -> str:
        graph, numbers, cuts = self.graph, self.numbers, self.cuts
        width = numbers.embedding
        positions = numbers.vector("supernet.positions", width)
        held = graph.constants.add("supernet.positions", positions)
        if cuts.is_fixed("e"):
            found = items if numbers.table_width == width else first_columns(graph, items, width)
            x = graph.node("Add", found, held)
        else:
            x = graph.node("Add", cuts.cut(graph, items, "e", (2,)), cuts.cut(graph, held, "e", (1,)))
        if not self.config.in_projection:
            return x
        matrix = numbers.plain("supernet.in", numbers.hidden, width)
        bias = numbers.vector("supernet.in_bias", numbers.hidden)
        by = hold(graph, matrix)
        scale = by.scale and cuts.cut(graph, by.scale, "h", (0,))
        by = Operand(cuts.cut(graph, by.values, "eh", (0, 1)), scale, by.kind)
        return multiply(
            graph, x, by, cuts.cut(graph, graph.constants.add("supernet.in_bias", bias), "h", (0,))
        )

    def _blocks(self, graph: Graph, number: int, x: str, pad: str, mask: str) -> str:
        """Blocks from ``number`` on, as deep as the route goes: [N, 1, h]."""
        while number not in self.depths:
            x, number = run_block(graph, self._block(graph, number), x, mask, last=False), number + 1
        if number == self.depths[-1]:
            return run_block(graph, self._block(graph, number), x, pad, last=True)

        def leave(inner: Graph) -> str:
            return run_block(inner, self._block(inner, number), x, pad, last=True)

        def go_on(inner: Graph) -> str:
            y = run_block(inner, self._block(inner, number), x, mask, last=False)
            return self._blocks(inner, number + 1, y, pad, mask)

        is_last = graph.node("Equal", self.cuts.ends["d"], graph.integers(number))
        return graph.branch(is_last, leave, go_on, FLOAT, [None, 1, None])

    def _block(self, graph: Graph, number: int) -> Block:
        return cut_block(graph, self.numbers, f"supernet.blocks.{number - 1}", self.cuts)

    def _classified(self, graph: Graph, state: str) -> str:
        """[N, h] -> [N, V+1]: the panels that the route's width needs, added up."""
        numbers = self.numbers
        first, *others = panels(self.widths, self.widths[-1])
        bias = graph.constants.add(
            "supernet.classifier_bias", numbers.vector("supernet.classifier_bias", self.config.items + 1)
        )
        operand = hold(graph, numbers.panel(numbers.classifier, *first))
        piece = columns(graph, state, *first) if others else state
        scores = multiply(graph, piece, operand, bias)
        return self._more_panels(graph, state, scores, others)

    def _more_panels(self, graph: Graph, state: str, scores: str, cuts: list[tuple[int, int]]) -> str:
        if not cuts:
            return scores
        (start, stop), *others = cuts

        def add(inner: Graph) -> str:
            operand = hold(inner, self.numbers.panel(self.numbers.classifier, start, stop))
            more = multiply(inner, columns(inner, state, start, stop), operand)
            return self._more_panels(inner, state, inner.node("Add", scores, more), others)

        wider = graph.node("Greater", self.cuts.ends["h"], graph.integers(start))
        shape = [None, self.config.items + 1]
        return graph.branch(wider, add, lambda inner: inner.node("Identity", scores), FLOAT, shape)


def scale_name(name: str) -> str:
    """Of a table's scales; panels of one table have the same."""
    return f"{name.split('.panel')[0]}.scale"


def _one_value(value: float) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([value], np.float32))


def route_of(graph: Graph, numbers: Numbers, items: str, seq: str, pad: str) -> str:
    """The router: its argmax, lowest id on ties, int64 [1]."""
    router = numbers.job.canet.router
    assert router is not None
    width = router.config.width
    if router.config.table == "own":
        x = looked_up(graph, numbers.table("router.item_table", width), seq)
    else:
        x = items if numbers.table_width == width else first_columns(graph, items, width)
        scale = float(numbers.full["router.table_scale"])
        if scale != 1.0:
            x = graph.node("Mul", x, graph.scalar("router.table_scale", scale, np.float32))
    positions = graph.constants.add("router.positions", numbers.vector("router.positions", width))
    block = fixed_block(graph, numbers, "router.block", width)
    state = run_block(graph, block, graph.node("Add", x, positions), pad, last=True)
    head = hold(graph, numbers.plain("router.head", len(numbers.full["router.head_bias"]), width))
    bias = graph.constants.add("router.head_bias", numbers.full["router.head_bias"].detach().numpy())
    logits = multiply(graph, graph.node("Squeeze", state, graph.integers(1)), head, bias)
    return graph.node("ArgMax", logits, axis=-1, keepdims=0)


def items_of(graph: Graph, numbers: Numbers, seq: str) -> str:
    """The looked-up items, [N, L, table_width] float32."""
    if not numbers.tied:
        return looked_up(graph, numbers.table("supernet.item_table", numbers.table_width), seq)
    cuts = [cut for cut in numbers.table_panels() if cut[0] < numbers.table_width]
    held = [numbers.panel("supernet.item_table", *cut) for cut in cuts]
    items = looked_up_in_panels(graph, held, seq)
    return items if cuts[-1][1] == numbers.table_width else first_columns(graph, items, numbers.table_width)
