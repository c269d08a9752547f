"""A model's numbers in the layouts of the ONNX file.

Matrices are transposed, [in, out], as MatMul takes them. Attention matrices are stored with the channels of
each head together ([head, channel of the head]; channel c of the model is channel c // 4 of head c mod 4), so
that the prefix of a route is the prefix of every head and comes out of a Slice ready for attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from canet_export.job import Job
from canet_export.onnx.fourbit import half_scales, packed
from canet_export.slices import panels
from canet_mobile.model.integers import GROUP, Quantized, is_quantized, parameters
from canet_mobile.model.space import FFN, HEADS

Kind = Literal["float32", "float16", "uint8", "uint4"]
# int8 + 128: x86 without VNNI saturates products of uint8 and int8, never of uint8 and uint8.
ZERO_POINT = 128


@dataclass(frozen=True)
class Matrix:
    """A matrix as it is stored.

    Args:
        name: of its values in the file.
        values: in their layout; four-bit integers in PyTorch's, packed, with a last axis of 1.
        scale: with uint8 one per output (or item row), with four bits [..., groups, 1].
        layout: four bits only: the shape, the order of axes and the final shape that make the layout.
    """

    name: str
    values: NDArray[Any]
    scale: NDArray[Any] | None
    layout: tuple[tuple[int, ...], ...] | None = None

    @property
    def kind(self) -> Kind:
        """How the values are stored."""
        return "uint4" if self.layout is not None else str(self.values.dtype)  # type: ignore[return-value]

    @property
    def scale_name(self) -> str:
        """The name of the scale in the file; panels of one table share it, but for four bits."""
        name = self.name if self.layout is not None else self.name.partition(".panel")[0]
        return f"{name}.scale"

    def piece(self, name: str, start: int, stop: int) -> Matrix:
        """Some of q, k and v [in, 3, 4, channels], as a matrix of its own."""
        scale = None if self.scale is None else self.scale[start:stop]
        if self.layout is None:
            return Matrix(f"{self.name}.{name}", self.values[:, start:stop], scale)
        shape, *others = self.layout
        layout = ((stop - start, *shape[1:]), *others)
        return Matrix(f"{self.name}.{name}", self.values[start:stop], scale, layout)

    def flat(self, axis: int) -> Matrix:
        """As [in, out], where ``axis`` is the first of the outputs; scale [out]."""
        if self.layout is not None:
            shape, order, _ = self.layout
            rows = math.prod(shape[place] for place in order[:axis])
            return Matrix(self.name, self.values, self.scale, (shape, order, (rows, -1)))
        rows = math.prod(self.values.shape[:axis])
        scale = None if self.scale is None else self.scale.reshape(-1)
        return Matrix(self.name, self.values.reshape(rows, -1), scale)


class Numbers:
    """The numbers of a job, cut to the widest exported route.

    Args:
        job: what is exported.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.full = parameters(job.reference)
        self.embedding = max(route.embedding for route in job.routes)
        self.hidden = max(route.hidden for route in job.routes)
        self.tied = job.canet.supernet.config.tied
        self.has_router = job.canet.router is not None and len(job.routes) > 1
        shared = 0
        if self.has_router and job.canet.router.config.table == "shared":  # type: ignore[union-attr]
            shared = job.canet.router.config.width  # type: ignore[union-attr]
        # The router may read more columns of the items than any exported route.
        self.table_width = max(self.embedding, shared)

    @property
    def classifier(self) -> str:
        """The name of the classifier, or of the item table that serves as one."""
        return "supernet.item_table" if self.tied else "supernet.own_classifier"

    @property
    def classifier_width(self) -> int:
        """Columns of the stored classifier."""
        return max(self.hidden, self.table_width) if self.tied else self.hidden

    @property
    def has_four_bit_classifier(self) -> bool:
        """Whether the classifier is one for MatMulNBits, which reads it whole as fast as a part."""
        return self._four_bits(self.classifier) is not None

    def table_panels(self) -> list[tuple[int, int]]:
        """The column panels of a tied table: the classifier's, and what only embeddings read."""
        widths = tuple(sorted({route.hidden for route in self.job.routes}))
        if self._four_bits("supernet.item_table") is not None:
            return [(0, self.classifier_width)]
        cuts = panels(widths, widths[-1])
        return cuts if self.table_width <= widths[-1] else [*cuts, (widths[-1], self.table_width)]

    def _stored(self, name: str) -> tuple[Tensor, Tensor | None]:
        """The full tensor as numbers of its kind, and its scale per row."""
        integers = self.job.integers.tensors if self.job.integers is not None else {}
        if name in integers:
            found = integers[name]
            return (found.values.to(torch.int16) + ZERO_POINT).to(torch.uint8), found.scale[..., 0]
        tensor = self.full[name].detach()
        is_half = self.job.quantization == "fp16" and is_quantized(name, tensor)
        return tensor.half() if is_half else tensor, None

    def _four_bits(self, name: str) -> Quantized | None:
        """The tensor's integers, if they have four bits."""
        found = None if self.job.integers is None else self.job.integers.tensors.get(name)
        return found if found is not None and found.bits == 4 else None

    def _packed(
        self, name: str, rows: int, columns: int, shape: tuple[int, ...], order: tuple[int, ...]
    ) -> Matrix | None:
        """The prefix [..., rows, columns] of a four-bit tensor; None where it is none."""
        found = self._four_bits(name)
        if found is None:
            return None
        scale = half_scales(found.scale[..., :rows, : columns // GROUP, None])
        values = packed(found.values[..., :rows, :columns])[..., None]
        return Matrix(name, values, scale, (shape, order, ()))

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        """The first ``size`` entries along the last axis."""
        return self.full[name].detach()[..., :size].numpy()

    def table(self, name: str, width: int) -> Matrix:
        """An item table: [V+1, width], scale [V+1]; with four bits packed [V+1, width / 2, 1]."""
        rows = len(self.full[name])
        four = self._packed(name, rows, width, (rows, width), (0, 1))
        if four is not None:
            return four
        values, scale = self._stored(name)
        return Matrix(name, values[:, :width].numpy(), None if scale is None else scale.numpy())

    def panel(self, name: str, start: int, stop: int) -> Matrix:
        """Columns of an item table or classifier, items last: [stop - start, V+1], scale [V+1].

        With four bits items first, as MatMulNBits takes them: [V+1, groups, 16], scale [V+1, groups].
        """
        found = self._four_bits(name)
        if found is not None:
            pairs = packed(found.values[:, start:stop])
            halves = half_scales(found.scale[:, start // GROUP : stop // GROUP])
            shape = (len(pairs), (stop - start) // GROUP, GROUP // 2)
            return Matrix(f"{name}.panel{start}", pairs.reshape(shape), halves, (shape, (0, 1, 2), ()))
        values, scale = self._stored(name)
        own = None if scale is None else scale.numpy()
        return Matrix(f"{name}.panel{start}", np.ascontiguousarray(values[:, start:stop].T.numpy()), own)

    def plain(self, name: str, rows: int, columns: int) -> Matrix:
        """A matrix [rows, columns] of PyTorch as [columns, rows], scale [rows]."""
        four = self._packed(f"{name}_weight", rows, columns, (rows, columns), (1, 0))
        if four is not None:
            return four
        values, scale = self._stored(f"{name}_weight")
        stored = values[:rows, :columns].T.contiguous().numpy()
        return Matrix(f"{name}_weight", stored, None if scale is None else scale[:rows].numpy())

    def qkv(self, prefix: str, hidden: int) -> Matrix:
        """The attention's three matrices: [hidden, 3, 4, hidden / 4], scale [3, 4, hidden / 4]."""
        name = f"{prefix}.qkv_weight"
        shape = (3, hidden // HEADS, HEADS, hidden)
        four = self._packed(name, hidden, hidden, shape, (3, 0, 2, 1))
        if four is not None:
            return four
        values, scale = self._stored(name)
        stored = heads_together(values[:, :hidden, :hidden].permute(0, 2, 1), 2)  # [3, in, 4, c]
        own = None if scale is None else heads_together(scale[:, :hidden], 1).numpy()
        return Matrix(name, stored.permute(1, 0, 2, 3).contiguous().numpy(), own)

    def out(self, prefix: str, hidden: int) -> Matrix:
        """The attention's last matrix: [4, hidden / 4, hidden], scale [hidden]."""
        name = f"{prefix}.out_weight"
        four = self._packed(name, hidden, hidden, (hidden, hidden // HEADS, HEADS), (2, 1, 0))
        if four is not None:
            return four
        values, scale = self._stored(name)
        stored = heads_together(values[:hidden, :hidden].T, 0).contiguous().numpy()
        return Matrix(name, stored, None if scale is None else scale[:hidden].numpy())

    def qkv_bias(self, prefix: str, hidden: int) -> NDArray[np.float32]:
        """[3, 4, hidden / 4]."""
        return heads_together(self.full[f"{prefix}.qkv_bias"].detach()[:, :hidden], 1).numpy()

    def ffn(self, prefix: str, hidden: int) -> tuple[Matrix, Matrix]:
        """[hidden, 4 hidden] and [4 hidden, hidden]."""
        inner = FFN * hidden
        return self.plain(f"{prefix}.ffn1", inner, hidden), self.plain(f"{prefix}.ffn2", hidden, inner)


def heads_together(tensor: Tensor, axis: int) -> Tensor:
    """[..., h, ...] -> [..., 4, h / 4, ...]: the channels of a head side by side."""
    return tensor.unflatten(axis, (-1, HEADS)).transpose(axis, axis + 1)
