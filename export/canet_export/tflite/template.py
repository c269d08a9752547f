"""Converting the graphs once, with numbers that only mark their place.

litert-torch converts a stand-in: the same graphs over a small catalogue, every number random, so that each
constant of the written file can be told by its bytes. The model's own numbers are put in their places later.
So neither time nor memory of the conversion grows with the catalogue, nothing is folded into a weight by
accident, and two weights that happen to be equal are never taken for each other.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import nn

from canet_export.integers import fold_residuals, parameters
from canet_export.job import Job, Progress
from canet_export.tflite.graphs import tflite_graphs
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet
from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router
from canet_mobile.model.supernet import Supernet

INPUT = "seq"
KEPT = ("router.table_scale",)  # a scalar inside the graph, not a constant to be put in its place
LARGEST_SHAPE = 8  # elements of a constant that can be a shape


@dataclass(frozen=True)
class Template:
    """A converted stand-in.

    Args:
        model: ``ModelT`` of the flatbuffer's object interface, a subgraph per entry.
        entries: the subgraphs' entries, in the model's order.
        places: per subgraph, which constant of the graph (its path) a tensor holds.
    """

    model: Any
    entries: tuple[str, ...]
    places: tuple[dict[int, str], ...]


def make_template(job: Job, progress: Progress) -> Template:
    """Convert the job's graphs over a stand-in catalogue, then give them the sizes of the job's own.

    Raises:
        CanetError: the converter fails, or dissolves a constant.
    """
    stand_in = _stand_in(job)
    rows, classes = len(stand_in.supernet.item_table), job.canet.supernet.config.items + 1
    graphs = tflite_graphs(job, stand_in)
    model = _convert(graphs, job.canet.supernet.config.length, progress)
    signatures = {s.subgraphIndex: s.signatureKey.decode() for s in model.signatureDefs}
    entries = tuple(signatures[index] for index in range(len(model.subgraphs)))
    places = tuple(
        _places(model, subgraph, entry, graphs[entry])
        for subgraph, entry in zip(model.subgraphs, entries, strict=True)
    )
    for subgraph in model.subgraphs:
        _resize(model, subgraph, rows, classes)
    return Template(model, entries, places)


@torch.no_grad()
def _stand_in(job: Job) -> Canet:
    config = job.canet.supernet.config
    space = job.canet.space
    # A prime above every other size of the graphs: only the catalogue has it.
    rows = 1 + max(4 * space.hidden[-1], space.embedding[-1], job.k + config.length, len(space), 256)
    while any(rows % n == 0 for n in range(2, int(rows**0.5) + 1)):
        rows += 1
    router = job.canet.router
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Canet(
            Supernet(replace(config, items=rows - 1)),
            None if router is None else Router(replace(router.config, items=rows - 1)),
        ).eval()
        numbers = parameters(job.reference)
        model = fold_residuals(model)
        for name, tensor in parameters(model).items():
            if name in KEPT:
                tensor.copy_(numbers[name])
            elif tensor.dim():
                tensor.normal_()
    return model


def _convert(graphs: Mapping[str, nn.Module], length: int, progress: Progress) -> Any:
    with quiet():
        import litert_torch
        from ai_edge_litert import schema_py_generated as schema

        example = {INPUT: torch.zeros(1, length, dtype=torch.int32)}
        converter: Any = litert_torch
        for entry, graph in graphs.items():
            converter = converter.signature(entry, graph, sample_kwargs=example)
        progress(f"convert {len(graphs)} signatures with litert-torch")
        try:
            with silent(), torch.no_grad():
                content = converter.convert().model_content()
        except Exception as error:  # whatever the converter's layers raise
            raise CanetError(
                f"litert-torch does not convert the graphs: {type(error).__name__}: {error}",
                fix="use a litert-torch in the range of pyproject.toml",
            ) from error
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


@contextmanager
def silent() -> Iterator[None]:
    """Hide the converter's progress (Python, on stdout) and its compiler's remarks (C++, on stderr)."""
    setting = "LITERT_TORCH_SHOW_PROGRESS"
    before = os.environ.get(setting)
    os.environ[setting] = "n"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with redirect_stdout(StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        if before is None:
            del os.environ[setting]
        else:
            os.environ[setting] = before


def buffer_bytes(model: Any, index: int) -> bytes:
    """The bytes of a buffer that is held inside the flatbuffer."""
    data = model.buffers[index].data
    return b"" if data is None else bytes(data)


def _places(model: Any, subgraph: Any, entry: str, graph: nn.Module) -> dict[int, str]:
    marks = {
        hashlib.sha256(parameter.detach().numpy().tobytes()).digest(): path
        for path, parameter in graph.named_parameters()
    }
    found = {}
    for index, tensor in enumerate(subgraph.tensors):
        data = buffer_bytes(model, tensor.buffer)
        path = marks.get(hashlib.sha256(data).digest()) if data else None
        if path is not None:
            found[index] = path
    lost = sorted(set(marks.values()) - set(found.values()))
    if lost:
        raise CanetError(
            f"litert-torch dissolved {lost[0]} of {entry} ({len(lost)} constant(s)), so that its numbers "
            "could not be put in place",
            fix="use a litert-torch in the range of pyproject.toml",
        )
    return found


def _resize(model: Any, subgraph: Any, rows: int, classes: int) -> None:
    """Put the catalogue's size where the stand-in's was: in shapes, and in constants that are shapes."""
    from ai_edge_litert.schema_py_generated import TensorType

    def resized(sizes: Any) -> list[int]:
        return [classes if size == rows else int(size) for size in sizes]

    for tensor in subgraph.tensors:
        for field in ("shape", "shapeSignature"):
            if getattr(tensor, field) is not None:
                setattr(tensor, field, resized(getattr(tensor, field)))
        data = buffer_bytes(model, tensor.buffer)
        if tensor.type == TensorType.INT32 and 0 < len(data) <= 4 * LARGEST_SHAPE:
            sizes = np.array(resized(np.frombuffer(data, "<i4")), "<i4")
            model.buffers[tensor.buffer].data = sizes.view(np.uint8)
    for operator in subgraph.operators:
        options = operator.builtinOptions
        if getattr(options, "newShape", None) is not None:
            options.newShape = resized(options.newShape)
