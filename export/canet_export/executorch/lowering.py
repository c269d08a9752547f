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
        for speed_up in (_needed_passes_only, _operators_listed_once, _origins_shared):
            try:
                speed_up(stack)
            except (AttributeError, ImportError, TypeError):
                logging.getLogger(__name__).debug("%s does not fit this toolkit", speed_up.__name__)
        yield
