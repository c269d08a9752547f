"""Which device computes, and what training and evaluation make of the answer. Needs no GPU."""

from pathlib import Path

import pytest
import torch
from conftest import random_canet
from training_toys import small

from canet_mobile.accelerator import GPU_TIMES, choose_device, suited
from canet_mobile.cli.main import run as cli
from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError
from canet_mobile.model.recommender import move, parts_of
from canet_mobile.run.process import launch
from canet_mobile.train.trainer import train


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that PyTorch says it sees; what choose_device sets for it is set back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    attention, precision = torch.backends.cuda.cudnn_sdp_enabled(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.backends.cuda.enable_cudnn_sdp(attention)
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def test_without_a_gpu_the_cpu_computes_and_cuda_is_refused(no_gpu: None) -> None:
    assert choose_device().type == choose_device("cpu").type == "cpu"
    with pytest.raises(CanetError, match=r"PyTorch sees no GPU here(.|\n)*fix: take auto or cpu"):
        choose_device("cuda")
    with pytest.raises(CanetError, match="PyTorch sees no GPU here"):
        launch(small(accelerator="cuda"))


def test_a_gpu_is_taken_and_set_up_to_give_the_same_bits_twice(pretended_gpu: None) -> None:
    assert choose_device(tf32=True).type == "cuda"
    assert (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.get_float32_matmul_precision() == "high"
    assert choose_device("cuda").type == "cuda" and torch.get_float32_matmul_precision() == "highest"


def test_the_cpu_is_left_as_it_is_beside_a_gpu(pretended_gpu: None) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.are_deterministic_algorithms_enabled()
    assert choose_device("cpu").type == "cpu"
    assert before == (torch.backends.cuda.cudnn_sdp_enabled(), torch.are_deterministic_algorithms_enabled())


def test_a_gpu_takes_more_rows_at_once() -> None:
    assert suited(128, torch.device("cpu")) == 128
    assert suited(128, torch.device("cuda")) == 128 * GPU_TIMES > 128


def test_move_takes_every_part_along() -> None:
    model = random_canet()
    assert move(model, torch.device("meta")) is model
    assert {weight.device.type for part in parts_of(model).values() for weight in part.parameters()} == {
        "meta"
    }


def test_evaluate_refuses_a_gpu_that_is_not_there(
    no_gpu: None, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(small(epochs=1), dataset, tmp_path / "run")
    assert cli(["evaluate", str(run.directory), "--accelerator", "cuda", "--routes", "routed"]) == 1
    assert "sees no GPU here" in capsys.readouterr().err
    assert cli(["evaluate", str(run.directory), "--accelerator", "cpu", "--routes", "routed"]) == 0
