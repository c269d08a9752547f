"""Are a checkpoint's numbers, to the last bit, in the written package?

The file is read by its structure: every constant that an operation of a function computes with, followed from
the protobuf into weight.bin, against the constants that the model must have there (expected.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from canet_export.coreml.expected import Constant, Expectations
from canet_export.coreml.export import IOS17, MAIN, MODEL_FILE
from canet_export.coreml.sizes import blob_offsets, uses
from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job
from canet_mobile.model.integers import Quantized
from canet_mobile.package.lists import Check, Failure
from canet_mobile.replay.mil.model import MilError, MilModel, open_mlpackage

# Inputs that hold numbers of the model; the others are axes, shapes and modes.
NUMBERS = {
    "gather": ("x",),
    "linear": ("weight", "bias"),
    "layer_norm": ("gamma", "beta", "epsilon"),
    "add": ("x", "y"),
    "mul": ("x", "y"),
    "matmul": ("x", "y"),
    "scatter_along_axis": ("data", "updates"),
}
Parts = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Found:
    """A constant as it stands in the file."""

    operator: str
    parameter: str
    source: Any


@dataclass
class _State:
    compared: set[Any] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    constants: int = 0


def check_stored(directory: Path, job: Job) -> Check:
    """Compare every constant of every function in the package(s) with the job's numbers.

    Args:
        directory: holds ``canet.mlpackage``, or one package per entry.
        job: what was exported.
    """
    older = job.minimum_os == IOS17
    state, expectations = _State(), Expectations(job, shared=not older)
    models: dict[str, MilModel] = {}
    for entry in [ROUTER_ENTRY, *(route.entry for route in job.routes)]:
        file, function = (f"{entry}.mlpackage", MAIN) if older else (MODEL_FILE, entry)
        try:
            if file not in models:
                models[file] = open_mlpackage(directory / file)
            found = list(found_constants(models[file], function))
            _compare_entry(models[file], entry, list(expectations.of(entry)), found, state, older)
        except MilError as error:
            state.failures.append(Failure("weights", entry, None, file, "a readable package", error.what))
    good = state.constants - len(state.failures)
    detail = f"{good} of {state.constants} constants read back are the checkpoint's, bit for bit"
    return Check(
        "weights", not state.failures, state.constants, good / max(state.constants, 1), 1.0, detail,
        tuple(state.failures),
    )  # fmt: skip


def found_constants(model: MilModel, function: str) -> Iterator[Found]:
    """The model's numbers in a function, in the order of its operations."""
    for operation, parameter, source in sorted_uses(model, function):
        yield Found(operation.type, parameter, source)


def sorted_uses(model: MilModel, function: str) -> Iterator[tuple[Any, str, Any]]:
    """:func:`uses` of numbers; an operation's in the order of :data:`NUMBERS`, as maps have none."""
    block = model.block(function)
    order = {op.outputs[0].name: n for n, op in enumerate(block.operations) if op.outputs}
    kept = [use for use in uses(block) if use[1] in NUMBERS.get(use[0].type, ()) and _is_float(use[2])]
    yield from sorted(kept, key=lambda u: (order[u[0].outputs[0].name], NUMBERS[u[0].type].index(u[1])))


def _is_float(source: Any) -> bool:
    return source.outputs[0].type.tensorType.dataType in (10, 11)


def _compare_entry(
    model: MilModel, entry: str, expected: list[Constant], found: list[Found], state: _State, older: bool
) -> None:
    wanted = [(constant.operator, constant.parameter) for constant in expected]
    there = [(one.operator, one.parameter) for one in found]
    if wanted != there:
        at = next((n for n, pair in enumerate(zip(wanted, there, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(wanted), len(there)) if at is None else at
        said = [" of ".join(reversed(one[at])) if at < len(one) else "nothing" for one in (wanted, there)]
        state.constants += 1
        failure = Failure("weights", entry, None, f"constant {at} of the function", said[0], said[1])
        state.failures.append(failure)
        return
    for constant, one in zip(expected, found, strict=True):
        offsets = tuple(blob_offsets(one.source))
        key = (model.path, offsets, constant.key) if offsets else (model.path, entry, id(one))
        if key in state.compared:
            continue
        state.compared.add(key)
        state.constants += 1
        difference = _difference(_expected_parts(constant, older), _found_parts(model, one.source))
        if difference is not None:
            part, expected_text, found_text = difference
            name = f"{constant.name}{part and ': ' + part}"
            state.failures.append(Failure("weights", entry, None, name, expected_text, found_text))


def _expected_parts(constant: Constant, older: bool) -> Parts:
    content = constant.content
    if not isinstance(content, Quantized):
        return {"": content.to(constant.dtype).numpy()}
    scale = content.scale[:, 0] if older else content.scale
    if constant.ones:
        scale = torch.ones(() if older else (1, 1))
    return {"integers": content.values.numpy(), "scale": scale.half().numpy()}


def _found_parts(model: MilModel, source: Any) -> Parts:
    if source.type == "const":
        return {"": model.value(source.attributes["val"])}
    values = {key: value for key, value in source.attributes.items() if key != "name"}
    values |= {key: argument.arguments[0].value for key, argument in source.inputs.items()}
    arrays = {key: model.value(value) for key, value in values.items()}
    parts = {
        "integers": arrays.pop("data" if "data" in arrays else "quantized_data"),
        "scale": arrays.pop("scale"),
    }
    # What is left must change nothing: a zero point of zero, the axis of the rows.
    return parts | {key: array for key, array in arrays.items() if np.any(array)}


def _difference(expected: Parts, found: Parts) -> tuple[str, str, str] | None:
    """The first part that differs, as (part, expected, found); None when all are equal bit for bit."""
    for part in sorted({*expected, *found}):
        if part not in expected or part not in found:
            texts = ("nothing" if part not in where else "something" for where in (expected, found))
            return part, *texts  # type: ignore[return-value]
        one, other = expected[part], found[part]
        if one.dtype != other.dtype or one.shape != other.shape:
            return part, f"{one.dtype} {list(one.shape)}", f"{other.dtype} {list(other.shape)}"
        if one.tobytes() != other.tobytes():
            flat, there = np.ascontiguousarray(one).reshape(-1), np.ascontiguousarray(other).reshape(-1)
            width = one.dtype.itemsize
            bits = [a.view(np.uint8).reshape(-1, width) for a in (flat, there)]
            differ = np.flatnonzero((bits[0] != bits[1]).any(1))
            at = int(differ[0])
            place = list(map(int, np.unravel_index(at, one.shape))) if one.ndim else []
            return part, f"{flat[at]} at {place}", f"{there[at]} ({len(differ)} of {one.size} differ)"
    return None
