"""float16: halves in the file, floats in the arithmetic.

A matrix goes through a DEQUANTIZE, which XNNPACK unpacks once when it packs the weights. A table must not: it
would be widened as a whole, per signature. Its rows are gathered as 16-bit integers, told to be halves
(BITCAST) and widened alone, because EMBEDDING_LOOKUP takes no halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Halves:
    """Puts halves into the subgraphs of one model.

    Args:
        model: ``ModelT``; operator codes are added to it as they are needed.
    """

    def __init__(self, model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.model, self.schema = model, schema
        self.kinds = schema.BuiltinOperator
        self._codes = {
            max(code.builtinCode, code.deprecatedBuiltinCode): n for n, code in enumerate(model.operatorCodes)
        }

    def impose(self, subgraph: Any, constants: dict[int, int]) -> None:
        """Make the given float32 constants of a subgraph halves.

        Args:
            subgraph: ``SubGraphT``.
            constants: tensor -> buffer of its halves.
        """
        widened: list[Any] = []
        operators: list[Any] = []
        for operator in subgraph.operators:
            if self._kind(operator) == self.kinds.EMBEDDING_LOOKUP and operator.inputs[1] in constants:
                operators += self._lookup(subgraph, operator, constants[operator.inputs[1]])
            else:
                operators.append(operator)
        looked_up = {
            index
            for operator in operators
            if self._kind(operator) == self.kinds.GATHER
            for index in operator.inputs
        }
        for index, buffer in constants.items():
            tensor = subgraph.tensors[index]
            if index in looked_up:
                continue
            half = self._tensor(subgraph, tensor.shape, self.schema.TensorType.FLOAT16, buffer)
            tensor.buffer = 0
            widened.append(self._operator(self.kinds.DEQUANTIZE, [half], [index]))
        subgraph.operators = widened + operators

    def _lookup(self, subgraph: Any, operator: Any, buffer: int) -> list[Any]:
        ids, table = operator.inputs
        (rows,) = operator.outputs
        shape, types = subgraph.tensors[rows].shape, self.schema.TensorType
        subgraph.tensors[table].type, subgraph.tensors[table].buffer = types.INT16, buffer
        bits = self._tensor(subgraph, shape, types.INT16)
        halves = self._tensor(subgraph, shape, types.FLOAT16)
        gather = self._operator(self.kinds.GATHER, [table, ids], [bits])
        gather.builtinOptionsType = self.schema.BuiltinOptions.GatherOptions
        gather.builtinOptions = self.schema.GatherOptionsT(axis=0)
        return [
            gather,
            self._operator(self.kinds.BITCAST, [bits], [halves]),
            self._operator(self.kinds.DEQUANTIZE, [halves], [rows]),
        ]

    def _kind(self, operator: Any) -> int:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return max(code.builtinCode, code.deprecatedBuiltinCode)

    def _tensor(self, subgraph: Any, shape: Sequence[int], kind: int, buffer: int = 0) -> int:
        tensor = self.schema.TensorT(shape=list(shape), type=kind, buffer=buffer)
        tensor.hasRank = True
        subgraph.tensors.append(tensor)
        return len(subgraph.tensors) - 1

    def _operator(self, kind: int, inputs: list[int], outputs: list[int]) -> Any:
        if kind not in self._codes:
            self._codes[kind] = len(self.model.operatorCodes)
            code = self.schema.OperatorCodeT(
                builtinCode=kind, deprecatedBuiltinCode=min(kind, 127), version=1
            )
            self.model.operatorCodes.append(code)
        operator = self.schema.OperatorT(opcodeIndex=self._codes[kind])
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return operator
