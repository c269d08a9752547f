"""The chosen route: embedding, blocks to its depth, classifier panels to its width, top k."""

from __future__ import annotations

import numpy as np

from canet_export.onnx.blocks import cut_block, fixed_block, run_block
from canet_export.onnx.fourbit import floats
from canet_export.onnx.nodes import Graph
from canet_export.onnx.numbers import Matrix, Numbers
from canet_export.onnx.prefixes import NOWHERE, PADDED, Prefixes
from canet_export.onnx.products import Operand, hold, multiply, zero_point
from canet_export.slices import panels
from canet_mobile.model.integers import GROUP
from canet_mobile.model.layers import MASK_FUTURE, MASK_PAD
from canet_mobile.model.supernet import PAD_CLASS_BIAS

FLOAT, INT32 = 1, 6  # TensorProto
INT8_ACTIVATIONS = 4  # MatMulNBits: multiply as integers, three times as fast as in float32


def are_items(graph: Graph, seq: str, items: int) -> str:
    """[N, L] bool: false on padding, and on what is no item's id."""
    ends = (graph.scalar(name, value, np.int32) for name, value in (("first_item", 1), ("last_item", items)))
    return graph.node("Equal", graph.node("Clip", seq, *ends), seq)


def pad_mask(graph: Graph, is_item: str, *, one: bool) -> str:
    """[N, 1, 1, L] float32: -1e4 on padding; with ``one`` history [1, L] broadcasts to that by itself."""
    if not one:
        is_item = graph.node("Unsqueeze", is_item, graph.integers(1, 2))
    marks = (np.full((1, 1, 1, 1), value, np.float32) for value in (0.0, MASK_PAD))
    held = (graph.constants.add(f"mask_{n}", mark) for n, mark in zip(("item", "pad"), marks, strict=True))
    return graph.node("Where", is_item, *held)


def first_columns(graph: Graph, x: str, width: int) -> str:
    """[..., width]."""
    return graph.node("Slice", x, graph.integers(0), graph.integers(width), graph.integers(-1))


def columns(graph: Graph, x: str, start: int, stop: int) -> str:
    """[..., stop - start]."""
    return graph.node("Slice", x, graph.integers(start), graph.integers(stop), graph.integers(-1))


def looked_up(graph: Graph, matrix: Matrix, seq: str) -> str:
    """Rows of an item table [V+1, width] -> [N, L, width] float32."""
    found = graph.node("Gather", graph.constants.add(matrix.name, matrix.values), seq)
    if matrix.kind == "uint4":
        return _unpacked(graph, matrix, found, seq)
    return _as_floats(graph, matrix, found, seq)


def looked_up_in_panels(graph: Graph, held: list[Matrix], seq: str) -> str:
    """The same from panels [width, V+1], which are the classifier's as well."""
    if held[0].kind == "uint4":
        rows = [graph.node("Gather", graph.constants.add(m.name, m.values), seq) for m in held]
        parts = [_unpacked(graph, m, row, seq) for m, row in zip(held, rows, strict=True)]
        return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=-1)
    found = [graph.node("Gather", graph.constants.add(m.name, m.values), seq, axis=1) for m in held]
    joined = found[0] if len(found) == 1 else graph.node("Concat", *found, axis=0)
    return _as_floats(graph, held[0], graph.node("Transpose", joined, perm=[1, 2, 0]), seq)


def _unpacked(graph: Graph, matrix: Matrix, found: str, seq: str) -> str:
    """Looked-up four-bit rows [N, L, ...] -> [N, L, width] float32."""
    assert matrix.scale is not None
    groups = matrix.scale.shape[1]
    scale = graph.node("Gather", graph.constants.add(matrix.scale_name, matrix.scale), seq)
    scale = graph.node("Reshape", scale, graph.integers(0, 0, groups, 1))
    pairs = graph.node("Reshape", found, graph.integers(0, 0, groups * GROUP // 2, 1))
    x = floats(graph, pairs, scale, (0, 0), groups)
    return graph.node("Reshape", x, graph.integers(0, 0, groups * GROUP))


def _as_floats(graph: Graph, matrix: Matrix, found: str, seq: str) -> str:
    if matrix.kind == "float32":
        return found
    if matrix.kind == "float16":
        return graph.node("Cast", found, to=FLOAT)
    assert matrix.scale is not None
    one = graph.scalar("one", 1.0, np.float32)
    integers = graph.node("DequantizeLinear", found, one, zero_point(graph))
    if ".panel" in matrix.name:  # the classifier's own scales
        scales = graph.constants.add(matrix.scale_name, matrix.scale)
        scale = graph.node("Unsqueeze", graph.node("Gather", scales, seq), graph.integers(2))
    else:
        scale = graph.node("Gather", graph.constants.add(matrix.scale_name, matrix.scale[:, None]), seq)
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
        mask = self._masked(pad) if self.depths[-1] > 1 else pad
        state = self._blocks(graph, 1, self._projected(items), pad, mask)
        scores = self._classified(graph, graph.node("Squeeze", state, graph.integers(1)))
        if job.seen == "exclude":
            never = graph.node("ConstantOfShape", graph.node("Shape", seq), value=_one_value(PAD_CLASS_BIAS))
            scores = graph.node("ScatterElements", scores, seq, never, axis=1)
        values, ids = graph.outputs("TopK", scores, graph.integers(job.k), count=2, axis=-1)
        return values, ids

    def _masked(self, pad: str) -> str:
        """[N, 1, L, L] float32: -2e4 more on the future, for every block but the last."""
        length = self.config.length
        future = np.triu(np.full((1, 1, length, length), MASK_FUTURE, np.float32), 1)
        return self.graph.node("Add", self.graph.constants.add("future", future), pad)

    def _projected(self, items: str) -> str:
        graph, numbers, cuts = self.graph, self.numbers, self.cuts
        width = numbers.embedding
        positions = numbers.vector("supernet.positions", width)
        held = graph.constants.add("supernet.positions", positions)
        found = items if numbers.table_width == width else first_columns(graph, items, width)
        x = cuts.cut(graph, graph.node("Add", found, held), "e", (2,))
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
            x, number = self._run(graph, number, x, mask, last=False), number + 1
        if number == self.depths[-1]:
            return self._run(graph, number, x, pad, last=True)

        def leave(inner: Graph) -> str:
            return self._run(inner, number, x, pad, last=True)

        def go_on(inner: Graph) -> str:
            y = self._run(inner, number, x, mask, last=False)
            return self._blocks(inner, number + 1, y, pad, mask)

        is_last = graph.node("Equal", self.cuts.ends["d"], graph.integers(number))
        return graph.branch(is_last, leave, go_on, FLOAT, [None, 1, None])

    def _run(self, graph: Graph, number: int, x: str, mask: str, *, last: bool) -> str:
        prefix = f"supernet.blocks.{number - 1}"
        if self.cuts.is_fixed("h"):
            parted = number in self.depths
            block = fixed_block(graph, self.numbers, prefix, self.numbers.hidden, parted=parted)
        else:
            block = cut_block(graph, self.numbers, prefix, self.cuts, last=last)
        return run_block(graph, block, x, mask, last=last)

    def _classified(self, graph: Graph, state: str) -> str:
        """[N, h] -> [N, V+1]: the panels that the route's width needs, added up."""
        numbers = self.numbers
        if numbers.has_four_bit_classifier:
            return self._classified_in_four_bits(graph, state)
        cuts = panels(self.widths, self.widths[-1])
        held = [numbers.panel(numbers.classifier, *cut) for cut in cuts]
        bias = graph.constants.add(
            "supernet.classifier_bias", numbers.vector("supernet.classifier_bias", self.config.items + 1)
        )
        row_scale = held[0].scale
        if row_scale is None:
            sums = self._sum_of_panels(graph, state, "", held, cuts, FLOAT)
            return graph.node("Add", sums, bias)
        # One scale for the whole state: the panels add up as integers, and the V+1 floats are made once.
        state, scale, zero = graph.outputs("DynamicQuantizeLinear", state, count=3)
        sums = graph.node("Cast", self._sum_of_panels(graph, state, zero, held, cuts, INT32), to=FLOAT)
        scales = graph.constants.add(held[0].scale_name, row_scale)
        scaled = graph.node("Mul", graph.node("Mul", sums, scales), scale)
        return graph.node("Add", scaled, bias)

    def _classified_in_four_bits(self, graph: Graph, state: str) -> str:
        """[N, h] -> [N, V+1] by the whole classifier; zeros stand for the columns beyond h."""
        numbers, width = self.numbers, self.numbers.classifier_width
        if PADDED in self.cuts.ends:
            state = graph.node("Pad", state, self.cuts.ends[PADDED])
        elif numbers.hidden < width:
            state = graph.node("Pad", state, graph.integers(0, 0, 0, width - numbers.hidden))
        matrix = numbers.panel(numbers.classifier, 0, width)
        assert matrix.scale is not None
        items, groups = matrix.scale.shape
        held = graph.constants.add(matrix.name, matrix.values)
        flat = graph.main.node(
            "Reshape", graph.constants.add(matrix.scale_name, matrix.scale), graph.integers(-1)
        )
        scale = graph.main.node("Cast", flat, to=FLOAT)
        sums = graph.fused(
            "MatMulNBits", state, held, scale,
            K=groups * GROUP, N=items, bits=4, block_size=GROUP, accuracy_level=INT8_ACTIVATIONS,
        )  # fmt: skip
        bias = numbers.vector("supernet.classifier_bias", items)
        return graph.node("Add", sums, graph.constants.add("supernet.classifier_bias", bias))

    def _sum_of_panels(
        self, graph: Graph, state: str, zero: str, held: list[Matrix], cuts: list[tuple[int, int]], kind: int
    ) -> str:
        """The first panel's product, and under a condition those of the others."""
        (start, stop), *_ = cuts
        piece = state if len(self.widths) == 1 else columns(graph, state, start, stop)
        product = _panel_product(graph, piece, zero, held[0])
        if len(cuts) == 1:
            return product

        def add(inner: Graph) -> str:
            return inner.node(
                "Add", product, self._sum_of_panels(inner, state, zero, held[1:], cuts[1:], kind)
            )

        wider = graph.node("Greater", self.cuts.ends["h"], graph.integers(stop))
        shape = [None, self.config.items + 1]
        return graph.branch(wider, add, lambda inner: inner.node("Identity", product), kind, shape)


def _panel_product(graph: Graph, state: str, zero: str, matrix: Matrix) -> str:
    """state [N, width] -> [N, V+1]: float32, or int32 of a quantized state."""
    held = graph.constants.add(matrix.name, matrix.values)
    if matrix.kind == "uint8":
        return graph.node("MatMulInteger", state, held, zero, zero_point(graph))
    values = graph.node("Cast", held, to=FLOAT) if matrix.kind == "float16" else held
    return graph.node("MatMul", state, values)


def _one_value(value: float) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([value], np.float32))


def route_of(graph: Graph, numbers: Numbers, items: str, seq: str, pad: str, point: str) -> str:
    """The router at an operating point int32 [1]: its argmax, lowest id on ties, int64 [1]."""
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
    block = fixed_block(graph, numbers, "router.block", width, parted=True)
    state = run_block(graph, block, graph.node("Add", x, positions), pad, last=True)
    head = hold(graph, numbers.plain("router.head", len(numbers.full["router.head_bias"]), width))
    bias = graph.constants.add("router.head_bias", numbers.full["router.head_bias"].detach().numpy())
    logits = multiply(graph, graph.node("Squeeze", state, graph.integers(1)), head, bias)
    points = graph.constants.add("router.points", numbers.full["router.points"].numpy())
    # Gather counts a negative place from the end; a place that is nowhere it refuses.
    below = graph.node("Less", point, graph.scalar("pad_id", 0, np.int32))
    place = graph.node("Where", below, graph.scalar("nowhere", NOWHERE, np.int32), point)
    logits = graph.node("Add", logits, graph.node("Gather", points, place))
    return graph.node("ArgMax", logits, axis=-1, keepdims=0)


def items_of(graph: Graph, numbers: Numbers, seq: str) -> str:
    """The looked-up items, [N, L, table_width] float32."""
    if not numbers.tied:
        return looked_up(graph, numbers.table("supernet.item_table", numbers.table_width), seq)
    cuts = [cut for cut in numbers.table_panels() if cut[0] < numbers.table_width]
    held = [numbers.panel("supernet.item_table", *cut) for cut in cuts]
    items = looked_up_in_panels(graph, held, seq)
    return items if cuts[-1][1] == numbers.table_width else first_columns(graph, items, numbers.table_width)
