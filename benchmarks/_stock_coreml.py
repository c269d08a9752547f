"""The stock recipe for Core ML: torch.export, then coremltools.convert. It can be written here, not run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from canet_mobile.machine import quiet


def export_stock(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Convert ``model`` in fp32 to a .mlpackage at ``path``.

    Not from a TorchScript trace: with NumPy 2 coremltools 9.0 fails on the shapes that a trace computes.
    """
    with quiet(), torch.no_grad():
        import coremltools

        program = torch.export.export(model, example).run_decompositions({})
        converted = coremltools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS18,
            compute_precision=coremltools.precision.FLOAT32,
            outputs=[coremltools.TensorType("scores"), coremltools.TensorType("ids")],
            skip_model_load=True,
        )
        converted.save(str(path))
