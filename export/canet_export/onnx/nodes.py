"""Writing ONNX graphs by hand: nodes, constants, and branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# IR 10 and opset 21 are what ONNX Runtime 1.20 reads; the second set are its own fused operators.
IR_VERSION = 10
OPSET = 21
FUSED = "com.microsoft"

Shape = Sequence[int | str | None]


@dataclass
class Constants:
    """The initializers of a model by name, shared by its graph and all branches, and a counter for names."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    unpacked: dict[str, str] = field(default_factory=dict)
    names: int = 0

    def add(self, name: str, array: NDArray[Any]) -> str:
        """Hold ``array`` as ``name``, once."""
        if name not in self.arrays:
            self.arrays[name] = np.asarray(array, order="C")  # keeps scalars scalars
        return name


class Graph:
    """A graph, or a branch of one, under construction. Values are known by their names.

    Args:
        constants: of the model.
        main: the graph of which this is a branch; None: it is the main one.
    """

    def __init__(self, constants: Constants, main: Graph | None = None) -> None:
        self.constants = constants
        self.main = main or self
        self.nodes: list[Any] = []

    def outputs(self, kind: str, *inputs: str, count: int, domain: str = "", **attributes: Any) -> list[str]:
        """Append a node with ``count`` outputs; returns their names."""
        from onnx import helper

        self.constants.names += 1
        number = self.constants.names
        names = [f"v{number}"] if count == 1 else [f"v{number}_{place}" for place in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns its name."""
        return self.outputs(kind, *inputs, count=1, domain=domain, **attributes)[0]

    def fused(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one of ONNX Runtime's own operators."""
        return self.node(kind, *inputs, domain=FUSED, **attributes)

    def integers(self, *values: int) -> str:
        """A constant int64 [n]."""
        name = "i_" + "_".join(str(value).replace("-", "m") for value in values)
        return self.constants.add(name, np.array(values, np.int64))

    def scalar(self, name: str, value: float | int, dtype: Any) -> str:
        """A constant without dimensions."""
        return self.constants.add(name, np.array(value, dtype))

    def rename(self, value: str, name: str) -> str:
        """Call a value of this graph, which no node has taken in yet, ``name``; returns it."""
        for node in self.nodes:
            for place, output in enumerate(node.output):
                if output == value:
                    node.output[place] = name
                    return name
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name]))
        return name

    def branches(
        self,
        condition: str,
        then: Callable[[Graph], tuple[str, ...]],
        otherwise: Callable[[Graph], tuple[str, ...]],
        kinds: Sequence[tuple[int, Shape]],
    ) -> list[str]:
        """Append an If: two functions that write their branch and return the values it answers with.

        Args:
            condition: bool [1].
            then, otherwise: the branches.
            kinds: element type and shape of every answer.
        """
        graphs = []
        for write in (then, otherwise):
            inner = Graph(self.constants, self.main)
            answers = list(write(inner))
            made = {name for node in inner.nodes for name in node.output}
            # A branch may not answer with a value from outside.
            answers = [name if name in made else inner.node("Identity", name) for name in answers]
            infos = [value_info(name, *kind) for name, kind in zip(answers, kinds, strict=True)]
            graphs.append(inner.finished(f"g{self.constants.names}", [], infos))
        return self.outputs("If", condition, count=len(kinds), then_branch=graphs[0], else_branch=graphs[1])

    def branch(
        self,
        condition: str,
        then: Callable[[Graph], str],
        otherwise: Callable[[Graph], str],
        dtype: int,
        shape: Shape,
    ) -> str:
        """:meth:`branches` with one answer."""
        pair = (lambda inner: (then(inner),)), (lambda inner: (otherwise(inner),))
        return self.branches(condition, *pair, [(dtype, shape)])[0]

    def finished(
        self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], tensors: Sequence[Any] = ()
    ) -> Any:
        """The GraphProto."""
        from onnx import helper

        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), initializer=list(tensors))


def value_info(name: str, dtype: int, shape: Shape) -> Any:
    """The declaration of an input or output; None is any size."""
    from onnx import helper

    return helper.make_tensor_value_info(name, dtype, list(shape))


def model_of(
    graph: Graph, inputs: Sequence[Any], outputs: Sequence[Any], tensors: dict[str, NDArray[Any]]
) -> Any:
    """The ModelProto of a graph with ``tensors`` as its initializers."""
    from onnx import helper, numpy_helper

    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    proto = graph.finished("canet", inputs, outputs, held)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="canet-mobile")


def used_names(nodes: Sequence[Any]) -> set[str]:
    """Every value that nodes, and nodes of their branches, take in."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= used_names(attribute.g.node)
    return found
