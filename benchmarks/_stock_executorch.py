"""The stock recipe for ExecuTorch: export, lower to XNNPACK, write; run with the Python runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.machine import quiet

METHOD = "forward"


def export_stock(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Export ``model`` in fp32."""
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(model, example)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        with path.open("wb") as file:
            edge.to_executorch().write_to_file(file)


def open_stock(path: Path, threads: int) -> Callable[[NDArray[np.int32]], None]:
    """A function that runs the exported model once on a history [L]."""
    with quiet():
        import executorch.extension.pybindings.portable_lib as portable
        from executorch.runtime import Runtime

    portable._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method(METHOD)

    def run(seq: NDArray[np.int32]) -> None:
        method.execute([torch.from_numpy(np.ascontiguousarray(seq, dtype=np.int32)[None])])

    return run
