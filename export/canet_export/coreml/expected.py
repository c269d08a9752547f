"""What the constants of every function must be, in the order in which the function computes with them.

Stated from the model's structure (paper Eq. 1, 3, 4) and the job's numbers, not from what the exporter kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from canet_export.coreml.functions import CLASSIFIER, classifier_cuts, table_cuts
from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job
from canet_export.slices import Slice
from canet_mobile.model.integers import ROUTER_TABLE, TABLE, Quantized, parameters
from canet_mobile.model.layers import LAYER_NORM_EPS, MASK_FUTURE, MASK_PAD
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import FFN, HEADS
from canet_mobile.model.supernet import PAD_CLASS_BIAS


@dataclass(frozen=True, eq=False)
class Constant:
    """One constant that a function computes with.

    Args:
        operator: the operation that takes it (``linear``, ``gather``, ...).
        parameter: as what.
        name: of the full tensor, for messages.
        content: its numbers: float32, or integers and scales.
        dtype: how floats are stored.
        ones: the integers are looked up as they are, with a scale of one.
        key: what makes it this constant: equal keys mean equal numbers.
    """

    operator: str
    parameter: str
    name: str
    content: Tensor | Quantized
    dtype: torch.dtype
    ones: bool
    key: tuple[object, ...]


class Expectations:
    """The constants of each entry of a job, in one file (``shared``) or in one file per entry."""

    def __init__(self, job: Job, *, shared: bool) -> None:
        self.job, self.shared = job, shared
        self.full = parameters(job.reference)
        self.integers = {} if job.integers is None else job.integers.tensors
        self.config = job.canet.supernet.config
        self.float = torch.float32 if job.quantization == "fp32" else torch.float16
        self._slices: dict[Slice, Tensor | Quantized] = {}

    def of(self, entry: str) -> Iterator[Constant]:
        """The constants of one entry, in the order of the operations that take them."""
        if entry != ROUTER_ENTRY:
            yield from self._route(entry)
        elif self.job.canet.router is not None:
            yield from self._router()

    def _route(self, entry: str) -> Iterator[Constant]:
        route, config, dtype = self.job.canet.space.named(entry), self.config, self.float
        h, e = route.hidden, route.embedding
        for cut in table_cuts(self.job, e, shared=self.shared, other=h):
            source = Slice(TABLE, config.items + 1, *cut)
            stored = torch.float16 if self.job.quantization == "fp16" else torch.float32
            yield self._matrix("gather", "x", source, stored)
        yield self._matrix("add", "y", Slice("supernet.positions", config.length, 0, e), dtype)
        if config.in_projection:
            yield from self._linear("supernet.in", h, e, dtype)
        yield self._number("mul", "mask of padding", MASK_PAD, dtype)
        if route.depth > 1:
            future = torch.full((1, 1, config.length, config.length), MASK_FUTURE).triu(1)
            yield self._made("add", "y", "mask of the future", future, dtype)
        for n in range(route.depth):
            yield from self._block(f"supernet.blocks.{n}", h, dtype)
        for cut in classifier_cuts(self.job, route, shared=self.shared):
            source = Slice(TABLE if config.tied else CLASSIFIER, config.items + 1, *cut)
            yield self._matrix("linear", "weight", source, dtype)
            if cut[0] == 0:
                yield self._vector("linear", "bias", "supernet.classifier_bias", config.items + 1, dtype)
            else:
                yield self._made("linear", "bias", "no bias", torch.zeros(config.items + 1), dtype)
        if self.job.seen == "exclude":
            lowest = torch.full((1, config.length), PAD_CLASS_BIAS)
            yield self._made("scatter_along_axis", "updates", "score of the seen", lowest, dtype)

    def _router(self) -> Iterator[Constant]:
        router, dtype = self.job.canet.router, torch.float32
        assert router is not None
        width, own = router.config.width, router.config.table == "own"
        table = ROUTER_TABLE if own else TABLE
        for cut in [(0, width)] if own else table_cuts(self.job, width, shared=self.shared):
            source = Slice(table, self.config.items + 1, *cut)
            stored = torch.float16 if self.job.quantization == "fp16" else torch.float32
            yield self._matrix("gather", "x", source, stored, ones=True)
            quantized = self.integers.get(table)
            if quantized is not None:
                scale = source.of_integers(quantized).scale
                yield self._made("gather", "x", f"{table}: scale", scale, torch.float16)
        if not own and float(self.full["router.table_scale"]) != 1.0:
            yield self._number("mul", "router.table_scale", float(self.full["router.table_scale"]), dtype)
        yield self._matrix("add", "y", Slice("router.positions", self.config.length, 0, width), dtype)
        yield self._number("mul", "mask of padding", MASK_PAD, dtype)
        yield from self._block("router.block", width, dtype)
        yield from self._linear("router.head", len(self.full["router.head_bias"]), width, dtype)
        yield self._vector("gather", "x", "router.points", len(POINTS), dtype)

    def _block(self, prefix: str, h: int, dtype: torch.dtype) -> Iterator[Constant]:
        for part in range(3):
            yield from self._linear(f"{prefix}.qkv", h, h, dtype, part)
        yield self._number("mul", "scale of attention", 1 / math.sqrt(h // HEADS), dtype)
        yield from self._linear(f"{prefix}.out", h, h, dtype)
        yield from self._norm(f"{prefix}.norm1", h, dtype)
        yield from self._linear(f"{prefix}.ffn1", FFN * h, h, dtype)
        yield from self._linear(f"{prefix}.ffn2", h, FFN * h, dtype)
        yield from self._norm(f"{prefix}.norm2", h, dtype)

    def _norm(self, prefix: str, h: int, dtype: torch.dtype) -> Iterator[Constant]:
        yield self._vector("layer_norm", "gamma", f"{prefix}_weight", h, dtype)
        yield self._vector("layer_norm", "beta", f"{prefix}_bias", h, dtype)
        yield self._number("layer_norm", "epsilon", LAYER_NORM_EPS, dtype)

    def _linear(
        self, prefix: str, rows: int, columns: int, dtype: torch.dtype, part: int | None = None
    ) -> Iterator[Constant]:
        yield self._matrix("linear", "weight", Slice(f"{prefix}_weight", rows, 0, columns, part), dtype)
        yield self._vector("linear", "bias", f"{prefix}_bias", rows, dtype, part)

    def _matrix(
        self, operator: str, parameter: str, source: Slice, dtype: torch.dtype, *, ones: bool = False
    ) -> Constant:
        if source not in self._slices:
            quantized = self.integers.get(source.name)
            made = source.of(self.full[source.name]) if quantized is None else source.of_integers(quantized)
            self._slices[source] = made
        content = self._slices[source]
        ones = ones and isinstance(content, Quantized)
        return Constant(operator, parameter, source.name, content, dtype, ones, (source, dtype, ones))

    def _vector(
        self, operator: str, parameter: str, name: str, size: int, dtype: torch.dtype, part: int | None = None
    ) -> Constant:
        full = self.full[name] if part is None else self.full[name][part]
        return Constant(operator, parameter, name, full[:size], dtype, False, (name, size, part, dtype))

    def _made(self, operator: str, parameter: str, name: str, tensor: Tensor, dtype: torch.dtype) -> Constant:
        return Constant(operator, parameter, name, tensor, dtype, False, (name, tuple(tensor.shape), dtype))

    def _number(self, operator: str, name: str, value: float, dtype: torch.dtype) -> Constant:
        parameter = "epsilon" if operator == "layer_norm" else "y"
        tensor = torch.tensor(value, dtype=torch.float64)
        return Constant(operator, parameter, name, tensor, dtype, False, (name, value, dtype))
