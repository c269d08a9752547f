"""The device that computes, and how PyTorch uses it: one answer for training, validation and evaluation."""

from __future__ import annotations

import os

import torch

from canet_mobile.errors import CanetError

# A GPU waits for kernels to be launched: it wants this many times what suits a CPU's cache.
GPU_TIMES = 16


def choose_device(accelerator: str = "auto", *, tf32: bool = False) -> torch.device:
    """The device to compute on, PyTorch prepared for it.

    On a GPU the same seed gives the same bits twice: only deterministic kernels run. Attention leaves cuDNN
    out, which plans anew for every shape, and batches of histories hardly ever share one.

    Args:
        accelerator: ``auto`` takes CUDA where PyTorch sees a GPU; ``cpu``, ``cuda``.
        tf32: let float32 matrix products on a GPU round their factors to 10 bits (training).

    Raises:
        CanetError: CUDA was asked for and is not there.
    """
    found = torch.cuda.is_available()
    if accelerator == "cuda" and not found:
        raise CanetError("accelerator = cuda, but PyTorch sees no GPU here", fix="take auto or cpu")
    if accelerator == "cpu" or not found:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True)
    # Or every new tensor would cost another kernel.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return torch.device("cuda")


def suited(amount: int, device: torch.device) -> int:
    """How many rows or bytes to take at once where the result does not depend on it.

    Args:
        amount: what suits a CPU.
        device: where it is computed.
    """
    return amount * GPU_TIMES if device.type == "cuda" else amount
