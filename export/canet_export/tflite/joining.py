"""Making the subgraph of a route out of two that were converted apart: its front and its body.

36 routes have 9 fronts (embedding, hidden) and 12 bodies (hidden, depth); a conversion takes seconds each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """A converted subgraph.

    Args:
        subgraph: ``SubGraphT``.
        inputs: tensor by input name.
        outputs: tensors in the graph's order.
        places: which constant of the model's graph (its path) a tensor holds.
    """

    subgraph: Any
    inputs: dict[str, int]
    outputs: tuple[int, ...]
    places: dict[int, str]


def joined(front: Part, body: Part, seq: str, state: str) -> Part:
    """A new subgraph that runs ``front``, then ``body`` on its result; both are left as they are.

    Args:
        front: seq -> state.
        body: seq, state -> outputs.
        seq: the name of the input that both have.
        state: the name of the body's input that the front returns.
    """
    tensors = [copy.copy(tensor) for tensor in front.subgraph.tensors]
    place = {body.inputs[seq]: front.inputs[seq], body.inputs[state]: front.outputs[0], -1: -1}
    for index, tensor in enumerate(body.subgraph.tensors):
        if index not in place:
            place[index] = len(tensors)
            tensors.append(copy.copy(tensor))
    operators = [copy.copy(operator) for operator in front.subgraph.operators]
    for operator in body.subgraph.operators:
        moved = copy.copy(operator)
        moved.inputs = [place[int(index)] for index in operator.inputs]
        moved.outputs = [place[int(index)] for index in operator.outputs]
        operators.append(moved)
    outputs = tuple(place[index] for index in body.outputs)
    subgraph = copy.copy(front.subgraph)
    subgraph.tensors, subgraph.operators = tensors, operators
    subgraph.inputs, subgraph.outputs = [front.inputs[seq]], list(outputs)
    places = front.places | {place[index]: path for index, path in body.places.items()}
    return Part(subgraph, {seq: front.inputs[seq]}, outputs, places)
