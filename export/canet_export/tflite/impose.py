"""The model's own numbers in the places that the stand-in marked: floats, halves, or integers with scales."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_export.job import Job
from canet_export.slices import Leaf, Slice
from canet_export.tflite.halves import Halves
from canet_export.tflite.template import Template, buffer_bytes
from canet_mobile.errors import CanetError
from canet_mobile.model.integers import GROUP, Quantized, is_quantized


@dataclass
class Pool:
    """The buffers of the file, equal ones once; number 0 is empty, for tensors that hold no constant."""

    data: list[bytes] = field(default_factory=lambda: [b""])
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def put(self, data: bytes) -> int:
        """The number of the buffer that holds ``data``."""
        if not data:
            return 0
        digest = hashlib.sha256(data).digest()
        if digest not in self._numbers:
            self._numbers[digest] = len(self.data)
            self.data.append(data)
        return self._numbers[digest]


@dataclass(frozen=True)
class Integers:
    """A matrix of integers, as the flatbuffer holds it.

    Args:
        kind: INT8 or INT4.
        buffer: of the integers.
        table: their ``QuantizationParametersT``, with a scale per row.
        scales: buffer and shape of float16 scales per row and group, where a row has several.
    """

    kind: int
    buffer: int
    table: Any
    scales: tuple[int, list[int]] | None


def packed(values: NDArray[Any]) -> NDArray[Any]:
    """Two 4-bit integers a byte, the first in the low half."""
    nibbles = values.reshape(-1).view(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4


class Numbers:
    """Buffers, types and quantization tables of a job's constants, each made once.

    Args:
        job: whose numbers.
        pool: where the buffers go.
    """

    def __init__(self, job: Job, pool: Pool) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.job, self.pool, self.schema = job, pool, schema
        self._integers: dict[Slice, Integers] = {}
        self._floats: dict[tuple[int, str], tuple[Tensor, int]] = {}

    def quantized(self, leaf: nn.Module) -> Quantized | None:
        """The full tensor's integers, when the job has some for this matrix."""
        if not isinstance(leaf, Leaf) or self.job.integers is None:
            return None
        return self.job.integers.tensors.get(leaf.source.name)

    def integers(self, source: Slice, full: Quantized) -> Integers:
        """A slice's integers: int8 or int4 with a scale per row, or int4 with one per row and 32 columns.

        Raises:
            CanetError: the slice cuts a group of columns.
        """
        if source not in self._integers:
            if full.bits == 4 and (source.start % GROUP or source.stop % GROUP):
                raise CanetError(
                    f"int4 has a scale for every {GROUP} columns, a route uses {source.stop - source.start} "
                    f"of {source.name} from {source.start}",
                    fix=f"train with widths that are multiples of {GROUP}, or --quantize int8",
                )
            piece = source.of_integers(full)
            values = piece.values.numpy()
            types = self.schema.TensorType
            kind, data = (types.INT8, values) if full.bits == 8 else (types.INT4, packed(values))
            table = self.schema.QuantizationParametersT(quantizedDimension=0)
            scales = None
            if piece.scale.shape[1] == 1:
                table.scale = piece.scale[:, 0].numpy().astype("<f4")
                table.zeroPoint = np.zeros(len(table.scale), "<i8")
            else:
                scales = self.pool.put(piece.scale.numpy().astype("<f2").tobytes()), list(piece.scale.shape)
            self._integers[source] = Integers(kind, self.pool.put(data.tobytes()), table, scales)
        return self._integers[source]

    def put_integers(self, subgraph: Any, tensor: Any, integers: Integers) -> None:
        """Make a tensor of a subgraph one of integers."""
        tensor.type, tensor.buffer, tensor.quantization = integers.kind, integers.buffer, integers.table
        if integers.scales is not None:
            buffer, shape = integers.scales
            blocks = self.schema.BlockwiseQuantizationT(
                scales=len(subgraph.tensors), zeroPoints=-1, blockSize=GROUP
            )
            subgraph.tensors.append(
                self.schema.TensorT(
                    shape=shape, type=self.schema.TensorType.FLOAT16, buffer=buffer, hasRank=True
                )
            )
            details = self.schema.QuantizationDetails.BlockwiseQuantization
            tensor.quantization = self.schema.QuantizationParametersT(
                quantizedDimension=0, detailsType=details, details=blocks
            )

    def floats(self, tensor: Tensor, dtype: str = "<f4") -> int:
        """The buffer of a float tensor, as float32 or float16."""
        key = (id(tensor), dtype)  # the tensor is kept beside its number, so that no other gets its id
        if key not in self._floats:
            number = self.pool.put(tensor.detach().numpy().astype(dtype).tobytes())
            self._floats[key] = tensor, number
        return self._floats[key][1]


def is_half(job: Job, owner: nn.Module, name: str) -> bool:
    """Whether the constant ``name`` of a graph's module ``owner`` is stored in float16."""
    if job.quantization != "fp16" or name != "weight" or not isinstance(owner, Leaf):
        return False
    return is_quantized(owner.source.name, owner.weight)


def impose(template: Template, job: Job, graphs: Mapping[str, nn.Module]) -> tuple[Any, list[bytes]]:
    """The template's model with the job's numbers.

    Args:
        template: converted from the same graphs over a stand-in catalogue.
        job: whose integers, halves or floats.
        graphs: by entry, with the job's reference in them.

    Returns:
        The ``ModelT``, whose tensors name buffers of the list returned beside it.
    """
    pool = Pool()
    numbers = Numbers(job, pool)
    model = copy.copy(template.model)
    halves = Halves(model)
    for subgraph, entry, places in zip(model.subgraphs, template.entries, template.places, strict=True):
        graph = graphs[entry]
        halved: dict[int, int] = {}
        for index, tensor in enumerate(list(subgraph.tensors)):
            if index not in places:
                tensor.buffer = pool.put(buffer_bytes(template.model, tensor.buffer))
                continue
            path = places[index]
            owner, _, name = path.rpartition(".")
            leaf = graph.get_submodule(owner)
            full = numbers.quantized(leaf) if name == "weight" else None
            if is_half(job, leaf, name):
                halved[index] = numbers.floats(graph.get_parameter(path), "<f2")
            elif full is None:
                tensor.buffer = numbers.floats(graph.get_parameter(path))
            else:
                assert isinstance(leaf, Leaf)
                numbers.put_integers(subgraph, tensor, numbers.integers(leaf.source, full))
        if halved:
            halves.impose(subgraph, halved)
    return model, pool.data
