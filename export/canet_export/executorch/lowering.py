"""Faster lowering, to the same bytes: what ExecuTorch repeats for each of 37 methods is done once.

Every step is guarded: where this version of a toolkit looks different, it is left alone and takes its time.
tests/test_export_executorch.py checks that the file written with and without is the same, byte for byte.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

# The passes that change a graph of ours. The others look for convolutions, batch norms, 4-D attention,
# bilinear resizing: each costs one or more retraces of every method, and finds nothing.
PASSES = frozenset(
    {
        "XNNPACKRemoveCloneOpsTransform",
        "DimOrderOpsRevertPass",
        "ConvertToLinearPass",
        "ConstPropPass",
        "RemoveGetItemPass",
        "RemoveRedundantCopyPass",
    }
)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _needed_passes_only(stack: ExitStack) -> None:
    import executorch.backends.xnnpack.xnnpack_preprocess as preprocess

    manager = preprocess.XNNPACKPassManager
    needed = [cls for cls in manager(None).passes if cls.__name__ in PASSES]
    if len(needed) != len(PASSES):
        return

    class NeededPasses(manager):  # type: ignore[misc, valid-type]
        def __init__(self, program: Any, passes: Any = None) -> None:
            super().__init__(program, passes)
            if not passes:
                self.passes = needed

    stack.enter_context(_replaced(preprocess, "XNNPACKPassManager", NeededPasses))


Kind = tuple[Any, ...]


def _kinds(graph: Any) -> frozenset[Kind]:
    """What a pass may look at: each operator with what made its arguments, constants by type."""

    def kind(argument: Any) -> Any:
        if hasattr(argument, "op"):
            value = argument.meta.get("val")
            return argument.op, _target(argument), getattr(value, "dtype", type(value)), _rank(value)
        if isinstance(argument, (list, tuple)):
            return (
                tuple({kind(part) for part in argument}) if len(argument) > 4 else tuple(map(kind, argument))
            )
        return type(argument)

    return frozenset(
        (node.op, _target(node), kind(node.args), tuple((name, kind(v)) for name, v in node.kwargs.items()))
        for node in graph.nodes
    )


def _target(node: Any) -> Any:
    return node.target if node.op == "call_function" else None


def _rank(value: Any) -> int:
    return value.dim() if hasattr(value, "dim") else 0


def _outline(graph: Any) -> list[Any]:
    """All of a graph that reaches the file."""
    numbers = {node: number for number, node in enumerate(graph.nodes)}

    def plain(argument: Any) -> Any:
        if hasattr(argument, "op"):
            return "node", numbers[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(map(plain, argument))
        return argument

    def look(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(map(look, value))
        return (value.dtype, tuple(value.shape), value.stride()) if hasattr(value, "stride") else value

    return [
        (
            node.op,
            str(node.target),
            plain(node.args),
            plain(tuple(node.kwargs.items())),
            None if node.op == "output" else look(node.meta.get("val")),
        )
        for node in graph.nodes
    ]


def _twin(module: Any) -> Any:
    """Another module of the same graph: callers clear the one they gave when they copy the result back."""
    from torch.fx import GraphModule

    twin = GraphModule(module, module.graph)
    twin.meta = module.meta.copy()
    module.graph.owning_module = module
    return twin


def _idle_passes_once(stack: ExitStack) -> None:
    """A pass that left every kind of node of one method alone is not run on a method of the same kinds.

    Most passes run a whole method again in fake tensors, be there anything to change or not.
    """
    from executorch.exir.pass_base import ExportPass
    from torch.fx.passes.infra.pass_base import PassBase, PassResult

    original = PassBase.__call__
    idle: dict[type, set[Kind]] = {}
    busy: set[type] = set()

    def call(self: Any, module: Any) -> Any:
        if not isinstance(self, ExportPass) or type(self) in busy:
            return original(self, module)
        kinds = _kinds(module.graph)
        if kinds <= idle.get(type(self), set()):
            return PassResult(_twin(module), False)
        before = _outline(module.graph)
        result = original(self, module)
        if result is not None and _outline(result.graph_module.graph) == before:
            idle.setdefault(type(self), set()).update(kinds)
        else:
            busy.add(type(self))
        return result

    stack.enter_context(_replaced(PassBase, "__call__", call))


def _code_when_called(stack: ExitStack) -> None:
    """Every pass writes every method out as Python and compiles it; few of them are ever called."""
    from torch.fx import GraphModule

    original = GraphModule.recompile

    def recompile(self: Any) -> None:
        self._code = "# not written out"
        codegen = self.graph._codegen
        if hasattr(codegen, "pytree_info"):
            self._in_spec = codegen.pytree_info.in_spec
            self._out_spec = codegen.pytree_info.out_spec

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            original(self)
            return self.forward(*args, **kwargs)

        type(self).forward = forward

    stack.enter_context(_replaced(GraphModule, "recompile", recompile))


def _operators_listed_once(stack: ExitStack) -> None:
    """Decomposition lists all operators anew each time; nothing is registered meanwhile."""
    from torch._export import utils

    original = utils._collect_all_valid_cia_ops
    found: list[set[Any]] = []

    def listed_once() -> set[Any]:
        if not found:
            found.append(original())
        return set(found[0])

    for module in list(sys.modules.values()):
        if getattr(module, "_collect_all_valid_cia_ops", None) is original:
            stack.enter_context(_replaced(module, "_collect_all_valid_cia_ops", listed_once))


def _origins_shared(stack: ExitStack) -> None:
    """Each pass copies every node's whole history deeply; the entries are never changed, so share them."""
    from torch.fx import traceback

    def deepcopy(value: Any) -> Any:
        return list(value) if isinstance(value, list) else copy.deepcopy(value)

    if traceback.copy is copy:
        shallow = SimpleNamespace(**{**vars(copy), "deepcopy": deepcopy})
        stack.enter_context(_replaced(traceback, "copy", shallow))


@contextmanager
def fast_lowering() -> Iterator[None]:
    """Make lowering of many similar methods cheaper while the block runs."""
    with ExitStack() as stack:
        for speed_up in (
            _needed_passes_only,
            _idle_passes_once,
            _code_when_called,
            _operators_listed_once,
            _origins_shared,
        ):
            try:
                speed_up(stack)
            except (AttributeError, ImportError, TypeError):
                logging.getLogger(__name__).debug("%s does not fit this toolkit", speed_up.__name__)
        yield
