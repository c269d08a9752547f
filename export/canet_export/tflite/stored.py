"""Are a checkpoint's numbers, to the last bit and in their places, in ``canet.tflite``?

Not the writer's memory but the file's structure says what is where: the n-th FULLY_CONNECTED of a signature
multiplies with the n-th matrix of the model's graph, and so on. A weight that stands in another's place is
found like one that is off by a bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from canet_export.graph import BlockGraph, Norm, RouteGraph, RouterGraph
from canet_export.job import Job
from canet_export.slices import Leaf
from canet_export.tflite.export import MODEL_FILE
from canet_export.tflite.graphs import tflite_graphs
from canet_export.tflite.reading import Constant, Operation, read_signatures
from canet_mobile.model.integers import Quantized
from canet_mobile.package.lists import Check, Failure

LOOKUPS = ("EMBEDDING_LOOKUP", "GATHER")
# What only moves, joins or widens the rows that were looked up.
PASSING = ("RESHAPE", "SLICE", "STRIDED_SLICE", "CONCATENATION", "BITCAST", "DEQUANTIZE")


@dataclass(frozen=True)
class Expected:
    """A number of the model and the name it has there: integers, or floats."""

    name: str
    floats: Tensor
    integers: Quantized | None = None


def check_stored(directory: Path, job: Job) -> Check:
    """Read every matrix, bias, norm and position back and compare bit for bit.

    Args:
        directory: holds ``canet.tflite``.
        job: what was exported.
    """
    graphs = tflite_graphs(job)
    try:
        signatures = read_signatures(directory / MODEL_FILE)
    except (ValueError, OSError) as error:
        failure = Failure("weights", None, None, MODEL_FILE, "a TFLite file", str(error))
        return Check("weights", False, len(graphs), 0.0, 1.0, "the model file cannot be read", (failure,))
    failures: list[Failure] = []
    cases = 0
    passed: set[Any] = set()
    for entry, graph in graphs.items():
        if entry not in signatures:
            failures.append(Failure("weights", entry, None, "signature", "to be there", "none of that name"))
            continue
        wanted = expected_streams(graph, job)
        found = stored_streams(signatures[entry])
        for kind, expected in wanted.items():
            there = found[kind]
            cases += len(expected)
            if len(expected) != len(there):
                said = f"{len(expected)} {kind}", f"{len(there)}"
                failures.append(Failure("weights", entry, None, kind, *said))
                continue
            for one, constant in zip(expected, there, strict=True):
                key = (id(one.floats), constant.place, _table_place(constant))
                if key not in passed:
                    problem = difference(one, constant)
                    if problem is None:
                        passed.add(key)
                    else:
                        failures.append(Failure("weights", entry, None, one.name, *problem))
    good = cases - len(failures)
    detail = f"{good} of {cases} constants of {len(graphs)} signatures are the checkpoint's, bit for bit"
    return Check(
        "weights", not failures, cases, max(good, 0) / cases if cases else 1.0, 1.0, detail, tuple(failures)
    )


def _table_place(constant: Constant) -> int | None:
    return None if constant.scale is None else constant.scale.ctypes.data


def expected_streams(graph: nn.Module, job: Job) -> dict[str, list[Expected]]:
    """What a graph multiplies with, looks up and adds, in the order in which it does."""
    tensors = {} if job.integers is None else job.integers.tensors

    def leaf(name: str, module: nn.Module) -> Expected:
        assert isinstance(module, Leaf)
        full = tensors.get(module.source.name)
        pieces = None if full is None else module.source.of_integers(full)
        return Expected(f"{name}.weight", module.weight, pieces)

    lookups, matrices, biases, vectors, scalars = ([] for _ in range(5))

    def linear(name: str, module: nn.Module) -> None:
        matrices.append(leaf(name, module))
        if module.bias is not None:
            biases.append(Expected(f"{name}.bias", module.bias))  # type: ignore[arg-type]

    def norm(name: str, module: Norm) -> None:
        matrices.extend([Expected(f"{name}.mean", module.mean)] * 2)
        vectors.append(Expected(f"{name}.weight", module.weight))
        vectors.append(Expected(f"{name}.bias", module.bias))

    def block(name: str, module: BlockGraph) -> None:
        for part in ("q", "k", "v", "out"):
            linear(f"{name}.{part}", getattr(module, part))
        norm(f"{name}.norm1", module.norm1)
        linear(f"{name}.ffn1", module.ffn1)
        linear(f"{name}.ffn2", module.ffn2)
        norm(f"{name}.norm2", module.norm2)

    if isinstance(graph, RouteGraph | RouterGraph):
        lookups = [leaf(f"table.{number}", panel) for number, panel in enumerate(graph.table)]
        vectors.append(Expected("positions", graph.positions))
        if hasattr(graph, "future"):
            vectors.append(Expected("future", graph.future))  # type: ignore[arg-type]
    if isinstance(graph, RouteGraph):
        if graph.project is not None:
            linear("project", graph.project)
        for number, each in enumerate(graph.blocks):
            block(f"blocks.{number}", each)  # type: ignore[arg-type]
        for number, each in enumerate(graph.classifier):
            linear(f"classifier.{number}", each)
    elif isinstance(graph, RouterGraph):
        if graph.table_scale != 1.0:
            scalars = [Expected("table_scale", Tensor([graph.table_scale]))]
        block("block", graph.block)
        linear("head", graph.head)
        lookups.append(Expected("points", graph.points))  # looked up behind the item table
    return {"tables": lookups, "matrices": matrices, "biases": biases, "vectors": vectors, "scalars": scalars}


def stored_streams(operations: list[Operation]) -> dict[str, list[Constant]]:
    """The same of a signature in the file."""
    makers = {output: operation for operation in operations for output in operation.outputs}
    looked_up = {
        output for operation in operations if operation.kind in LOOKUPS for output in operation.outputs
    }
    lookups, matrices, biases, vectors, scalars = ([] for _ in range(5))
    for operation in operations:
        if operation.kind in LOOKUPS:
            lookups += [constant for constant in operation.constants.values() if constant.values.ndim > 1]
        elif operation.kind == "FULLY_CONNECTED":
            matrices.append(operation.constants[1])
            bias = operation.constants.get(2)
            if bias is not None and operation.constants[1].values.shape[0] > 1:
                biases.append(bias)
        elif operation.kind in ("ADD", "MUL"):
            for constant in operation.constants.values():
                if constant.values.size > 1:
                    vectors.append(constant)
                elif operation.kind == "MUL" and _from_table(operation, makers, looked_up):
                    scalars.append(constant)
    return {"tables": lookups, "matrices": matrices, "biases": biases, "vectors": vectors, "scalars": scalars}


def _from_table(operation: Operation, makers: dict[int, Operation], looked_up: set[int]) -> bool:
    """Whether an operator's input is a looked-up row, whatever moves, joins and widens it meanwhile."""
    waiting = list(operation.inputs)
    while waiting:
        tensor = waiting.pop()
        if tensor in looked_up:
            return True
        maker = makers.get(tensor)
        if maker is not None and maker.kind in PASSING:
            waiting += maker.inputs
    return False


def difference(expected: Expected, found: Constant) -> tuple[str, str] | None:
    """What was expected and what was found, in words, where a stored constant is not the model's."""
    if expected.integers is None:
        wanted = expected.floats.detach().numpy()
        if found.scale is not None:
            return "floats", f"{found.values.dtype} with scales"
        if found.values.dtype == np.float16:
            wanted = wanted.astype(np.float16)
        return _unequal(wanted, found.values, "")
    if found.scale is None or found.values.dtype != np.int8:
        return "integers with scales", f"{found.values.dtype} without"
    problem = _unequal(expected.integers.values.numpy(), found.values, "")
    problem = problem or _unequal(expected.integers.scale.numpy(), found.scale, "scale ")
    if problem is None and found.zero_points is not None and found.zero_points.any():
        return "zero points of 0", str(int(found.zero_points[found.zero_points != 0][0]))
    return problem


def _unequal(wanted: Any, found: Any, what: str) -> tuple[str, str] | None:
    if wanted.size != found.size or wanted.dtype != found.dtype:
        return (
            f"{what}{wanted.dtype} {list(wanted.shape)}",
            f"{what}{found.dtype} {list(found.shape)}",
        )
    flat, there = np.ravel(wanted), np.ravel(found)
    kind = f"u{flat.dtype.itemsize}"
    differ = np.flatnonzero(flat.view(kind) != there.view(kind))
    if not len(differ):
        return None
    at = int(differ[0])
    place = np.unravel_index(at, wanted.shape)
    return (
        f"{what}{flat[at]!r} at {[int(index) for index in place]}",
        f"{what}{there[at]!r}, {len(differ)} of {flat.size} differ",
    )
