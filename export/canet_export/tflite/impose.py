"""The model's own numbers in the places that the stand-in marked: floats, halves, or integers with scales."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from canet_export.graph import Leaf, Slice
from canet_export.integers import Quantized, is_quantized
from canet_export.job import Job
from canet_export.tflite.halves import Halves
from canet_export.tflite.template import Template, buffer_bytes


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


class Numbers:
    """Buffers, types and quantization tables of a job's constants, each made once.

    Args:
        job: whose numbers.
        pool: where the buffers go.
    """

    def __init__(self, job: Job, pool: Pool) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.job, self.pool, self.schema = job, pool, schema
        self._integers: dict[Slice, tuple[int, Any]] = {}
        self._floats: dict[tuple[int, str], tuple[Tensor, int]] = {}

    def quantized(self, leaf: nn.Module) -> Quantized | None:
        """The full tensor's integers, when the job has some for this matrix."""
        if not isinstance(leaf, Leaf) or self.job.integers is None:
            return None
        return self.job.integers.tensors.get(leaf.source.name)

    def integers(self, source: Slice, full: Quantized) -> tuple[int, Any]:
        """The buffer of a slice's int8 values [rows, columns], and its table of scales, one per row."""
        if source not in self._integers:
            piece = source.of_integers(full)
            table = self.schema.QuantizationParametersT()
            table.scale = piece.scale[:, 0].numpy().astype("<f4")
            table.zeroPoint = np.zeros(len(table.scale), "<i8")
            table.quantizedDimension = 0
            self._integers[source] = self.pool.put(piece.values.numpy().tobytes()), table
        return self._integers[source]

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
        for index, tensor in enumerate(subgraph.tensors):
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
                tensor.type = numbers.schema.TensorType.INT8
                tensor.buffer, tensor.quantization = numbers.integers(leaf.source, full)
        if halved:
            halves.impose(subgraph, halved)
    return model, pool.data
