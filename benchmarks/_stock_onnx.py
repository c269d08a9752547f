"""The stock recipe for ONNX: torch.onnx.export, then ONNX Runtime's default session."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from canet_mobile.machine import quiet
from canet_mobile.telemetry import onnxruntime


def export_stock(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Export ``model`` in fp32. The exporter is the TorchScript one: the newer needs onnxscript installed."""
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, example, str(path), input_names=["seq"], output_names=["scores", "ids"], dynamo=False
        )


def open_stock(path: Path, threads: int) -> Callable[[NDArray[np.int32]], None]:
    """A function that runs the exported model once on a history [L]."""
    ort = onnxruntime()

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kind = np.int64 if "int64" in session.get_inputs()[0].type else np.int32

    def run(seq: NDArray[np.int32]) -> None:
        session.run(None, {"seq": seq.astype(kind, copy=False)[None]})

    return run
