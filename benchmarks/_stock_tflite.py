"""The stock recipe for TFLite: litert_torch.convert, then LiteRT's default interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.machine import quiet


def export_stock(model: nn.Module, example: Tensor | tuple[Tensor, ...], path: Path) -> None:
    """Convert ``model`` in fp32."""
    examples = example if isinstance(example, tuple) else (example,)
    with quiet():
        import litert_torch

        litert_torch.convert(model, examples).export(str(path))


def open_stock(path: Path, threads: int) -> Callable[[NDArray[np.int32]], None]:
    """A function that runs the converted model once on a history [L]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    runner = interpreter.get_signature_runner()
    details = next(iter(runner.get_input_details().items()))
    name, kind = details[0], details[1]["dtype"]

    def run(seq: NDArray[np.int32]) -> None:
        runner(**{name: seq.astype(kind, copy=False)[None]})

    return run
