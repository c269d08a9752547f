"""Running a function of an ML Program in NumPy, operation by operation, as declared.

What this shows: the file holds the model's numbers in a graph that computes the model's function, with shapes
and types that are what they are declared to be. What it cannot show: how Core ML rounds inside an operation,
which processor it picks, or how fast it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.replay.mil.model import MilError, MilModel, tensor_type
from canet_mobile.replay.mil.operators import OPERATORS

Declared = tuple[str, tuple[int, ...]]
EXPONENT = np.uint32(0x7F800000)  # of a float32
LARGE, SMALL = np.float32(2.0**15), np.float32(2.0**-14)  # where fp16's last and first full binade begin
BEYOND = np.float32(1.5 * 2**13)  # float32 has 13 digits more; with 1.5 a sum stays in its binade


@dataclass(frozen=True)
class Step:
    """An operation whose constants are in place.

    Args:
        name, kind: of the operation, for messages.
        run, moves: of its operator.
        constants: inputs that are known.
        inputs: inputs that are computed: parameter -> name, or names of a list.
        outputs: names, and their declared types and shapes.
    """

    name: str
    kind: str
    run: Callable[..., Any]
    moves: bool
    constants: dict[str, Any]
    inputs: dict[str, str | list[str]]
    outputs: tuple[tuple[str, Declared], ...]


@dataclass(frozen=True)
class Program:
    """A function, ready to run.

    Args:
        model: the package it is of.
        name: of the function.
        inputs: names, and their declared types and shapes.
        steps: what is computed, in order.
        outputs: names of what it returns, and their declared types and shapes.
        rounds: whether every result that is declared fp16 is rounded to fp16. Within an operation numbers
            are float32, sums included, so that this is where fp16 begins and the only place.
    """

    model: MilModel
    name: str
    inputs: dict[str, Declared]
    steps: tuple[Step, ...]
    outputs: dict[str, Declared]
    rounds: bool

    def __call__(self, **given: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run on arrays of the declared types and shapes.

        Raises:
            MilError: an input is not as declared, or an operation fails or does not return what it declares.
        """
        values: dict[str, NDArray[Any]] = {}
        for name, (dtype, shape) in self.inputs.items():
            array = given.get(name)
            if array is None or array.shape != shape or array.dtype != np.dtype(dtype):
                raise MilError(
                    f"{self.name}: the input {name} is not {dtype} {list(shape)}", where=self.model.path
                )
            values[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        with np.errstate(all="ignore"):  # infinities and NaN are results, which those who compare will see
            for step in self.steps:
                self._run(step, values)
        return {name: values[name] for name in self.outputs}

    def _run(self, step: Step, values: dict[str, NDArray[Any]]) -> None:
        arguments = {
            key: values[name] if isinstance(name, str) else [values[one] for one in name]
            for key, name in step.inputs.items()
        }
        try:
            found = step.run(**arguments, **step.constants)
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise self._error(step, str(error)) from error
        found = found if isinstance(found, tuple) else (found,)
        for result, (name, (dtype, shape)) in zip(found, step.outputs, strict=True):
            if tuple(result.shape) != shape:
                raise self._error(step, f"{name} is declared {list(shape)} and becomes {list(result.shape)}")
            values[name] = rounded(result, dtype) if self.rounds and not step.moves else result

    def _error(self, step: Step, what: str) -> MilError:
        return MilError(
            f"{self.name}: the operation {step.kind} {step.name!r}: {what}", where=self.model.path
        )


def rounded(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """float32 numbers as the nearest ones of the declared type, the even one of two.

    To fp16 by adding and taking away a number so large that float32 has no digits beyond fp16's there.
    NumPy's own conversion takes several times as long and is left to what is near or beyond fp16's largest
    number; both are equal but for the sign of zero.
    """
    if dtype != "fp16":
        return array
    binade = np.bitwise_and(array.view(np.uint32), EXPONENT).view(np.float32)
    if not binade.max(initial=0) < LARGE:
        with np.errstate(over="ignore"):
            return array.astype(np.float16).astype(np.float32)
    np.maximum(binade, SMALL, out=binade)
    binade *= BEYOND
    found = array + binade
    found -= binade
    return found


class Loader:
    """Makes functions of one package ready; dequantized weights are made once and serve all of them.

    Args:
        model: an opened package.
        rounds: see :class:`Program`. With it (the default), fp16 functions compute as fp16 hardware that
            accumulates in fp32 does; without it, the rounding is left out and what remains is the graph.
    """

    def __init__(self, model: MilModel, *, rounds: bool = True) -> None:
        self.model, self.rounds = model, rounds
        self._weights: dict[bytes, NDArray[Any]] = {}

    def load(self, name: str) -> Program:
        """A function, checked: operators known, declared data types consistent.

        Raises:
            MilError: an operator or one of its inputs is unknown, a type is not as declared, or a constant
                is damaged.
        """
        block = self.model.block(name)
        function = self.model.functions[name]
        inputs = {i.name: tensor_type(i.type) for i in function.inputs}
        declared: dict[str, Declared] = dict(inputs)
        constants: dict[str, Any] = {}
        steps = []
        for operation in block.operations:
            outputs = tuple((o.name, tensor_type(o.type)) for o in operation.outputs)
            if operation.type == "const":
                constants[outputs[0][0]] = self._constant(operation)
            else:
                step = self._step(name, operation, outputs, declared, constants)
                if operation.type.startswith("constexpr_"):
                    constants[outputs[0][0]] = self._dequantized(step, operation)
                else:
                    steps.append(step)
            declared.update(outputs)
        missing = [output for output in block.outputs if output not in declared or output in constants]
        if missing:
            raise MilError(f"{name}: the output {missing[0]!r} is not computed", where=self.model.path)
        results = {output: declared[output] for output in block.outputs}
        return Program(self.model, name, inputs, tuple(steps), results, self.rounds)

    def _constant(self, operation: Any) -> Any:
        value = operation.attributes["val"]
        held = self.model.value(value)
        dtype, shape = tensor_type(value.type)
        if (dtype, shape) != tensor_type(operation.outputs[0].type):
            raise MilError(
                f"the constant {operation.outputs[0].name!r} is not of its type", where=self.model.path
            )
        return (
            held if isinstance(held, str) else self._array(value.SerializeToString(deterministic=True), held)
        )

    def _array(self, key: bytes, array: NDArray[Any]) -> NDArray[Any]:
        if key not in self._weights:
            self._weights[key] = np.array(array, np.float32 if array.dtype.kind == "f" else None)
        return self._weights[key]

    def _step(
        self,
        function: str,
        operation: Any,
        outputs: tuple[tuple[str, Declared], ...],
        declared: Mapping[str, Declared],
        constants: Mapping[str, Any],
    ) -> Step:
        kind, name = operation.type, operation.outputs[0].name if operation.outputs else "?"

        def wrong(what: str) -> MilError:
            return MilError(f"{function}: the operation {kind} {name!r}: {what}", where=self.model.path)

        operator = OPERATORS.get(kind)
        if operator is None:
            raise wrong(f"this interpreter does not know the operator {kind}")
        known: dict[str, Any] = {}
        computed: dict[str, str | list[str]] = {}
        types: dict[str, str] = {}
        for key, bindings in _arguments(operation).items():
            names = [
                b.name for b in bindings if isinstance(b.name, str) and b.WhichOneof("binding") == "name"
            ]
            if unknown := [one for one in names if one not in declared]:
                raise wrong(f"its input {unknown[0]!r} is not there")
            if names and names[0] not in constants:
                computed[key] = names if key == "values" else names[0]
                types[key] = declared[names[0]][0]
                if any(declared[one][0] != types[key] for one in names):
                    raise wrong(f"the {key} are of several types")
            elif names:
                known[key], types[key] = constants[names[0]], declared[names[0]][0]
            else:
                value = bindings[0].value
                held = self.model.value(value)
                types[key] = tensor_type(value.type)[0]
                key_bytes = value.SerializeToString(deterministic=True)
                known[key] = held if isinstance(held, str) else self._array(key_bytes, held)
        for key in operator.parameters:
            if isinstance(known.get(key), np.ndarray):
                known[key] = known[key].tolist()
        if problem := _mismatch(operator.run, operator.parameters, known, computed):
            raise wrong(problem)
        alike = {types[key] for key in operator.alike if key in types}
        if len(alike) > 1:
            raise wrong(f"its inputs are of the types {', '.join(sorted(alike))}")
        promised = operator.dtypes(types, known)
        if promised != tuple(dtype for _, (dtype, _) in outputs):
            raise wrong(
                f"it returns {', '.join(promised)}, declared is {', '.join(o[1][0] for o in outputs)}"
            )
        return Step(name, kind, operator.run, operator.moves, known, computed, outputs)

    def _dequantized(self, step: Step, operation: Any) -> NDArray[Any]:
        if step.inputs:
            raise MilError(f"the constant {step.name!r} is computed from inputs", where=self.model.path)
        copy = type(operation)()
        copy.CopyFrom(operation)
        copy.attributes.pop("name", None)
        copy.outputs[0].name = ""
        key = copy.SerializeToString(deterministic=True)
        if key not in self._weights:
            dtype, shape = step.outputs[0][1]
            found = step.run(**step.constants)
            if tuple(found.shape) != shape:
                raise MilError(f"the constant {step.name!r} is not of its shape", where=self.model.path)
            self._weights[key] = rounded(found, dtype) if self.rounds else found
        return self._weights[key]


def _arguments(operation: Any) -> dict[str, list[Any]]:
    """Inputs of an operation; those that iOS 16's ``constexpr_*`` hold as attributes, in the same form."""
    from coremltools.proto import MIL_pb2

    found = {key: list(argument.arguments) for key, argument in operation.inputs.items()}
    for key, value in operation.attributes.items():
        if key != "name":
            found[key] = [MIL_pb2.Argument.Binding(value=value)]
    return found


def _mismatch(run: Callable[..., Any], parameters: tuple[str, ...], known: Any, computed: Any) -> str | None:
    """Why inputs do not fit an operator, None when they do."""
    wanted = inspect.signature(run).parameters
    given = {*known, *computed}
    if unknown := sorted(given - set(wanted)):
        return f"this interpreter does not know its input {unknown[0]!r}"
    needed = {name for name, parameter in wanted.items() if parameter.default is parameter.empty}
    if missing := sorted(needed - given):
        return f"its input {missing[0]!r} is missing"
    if dynamic := sorted(set(parameters) & set(computed)):
        return f"its input {dynamic[0]!r} is not constant"
    return None
