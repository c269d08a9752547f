"""The written program: every route as PyTorch, one delegate each, shared constants, integers verbatim."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_canet, random_histories

from canet_export.executorch import export as exporter
from canet_export.executorch.export import export, job_graphs
from canet_export.executorch.lowering import fast_lowering
from canet_export.executorch.stored import check_stored
from canet_export.job import ExportResult, Job
from canet_export.sizes import constants, tensor_bytes
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import IntegerModel, quantize_model
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import Route, RoutingSpace

pytest.importorskip("executorch")
ITEMS, LENGTH, K = 150, 10, 12
FLOAT_SPACE = RoutingSpace((8, 16), (8, 16), (2,))
INTEGER_SPACE = RoutingSpace((16,), (8, 16), (1, 2))


@dataclass(frozen=True)
class Exported:
    job: Job
    result: ExportResult
    path: Path
    program: Any

    @property
    def integers(self) -> IntegerModel | None:
        return self.job.integers


def make_job(canet: Canet, quantize: bool, k: int = K, routes: tuple[Route, ...] | None = None) -> Job:
    integers = quantize_model(canet) if quantize else None
    return Job(canet, integers, "int8" if quantize else "fp32", routes or canet.space.routes, k)


def exported(folder: Path, space: RoutingSpace, table: str, quantize: bool) -> Exported:
    with quiet():
        import executorch.kernels.quantized  # noqa: F401
        from executorch.runtime import Runtime
    job = make_job(random_canet(items=ITEMS, length=LENGTH, space=space, table=table), quantize)
    result = export(job, folder)
    path = folder / result.model_file
    return Exported(job, result, path, Runtime.get().load_program(path))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("fp32"), FLOAT_SPACE, "shared", False)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("int8"), INTEGER_SPACE, "own", True)


@pytest.fixture(params=["fp32", "int8"])
def either(request: pytest.FixtureRequest) -> Exported:
    return request.getfixturevalue(request.param)


def answers(
    found: Exported, entry: str, seq: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The package's scores and ids, and PyTorch's score of every class."""
    scores, ids = found.program.load_method(entry).execute([seq.to(torch.int32)])
    states = found.job.reference.supernet.sliced(seq, found.job.canet.space.named(entry))
    return scores, ids, found.job.reference.supernet.scores(states[:, -1])


@torch.no_grad()
def test_fp32_routes_are_the_sliced_submodels(fp32: Exported) -> None:
    for seq in random_histories(4, ITEMS, LENGTH).split(1):
        for route in FLOAT_SPACE:
            scores, ids, expected = answers(fp32, route.entry, seq)
            assert (scores - expected.topk(K).values).abs().max() <= 1e-4
            assert (scores - expected.gather(1, ids)).abs().max() <= 1e-4


@torch.no_grad()
def test_int8_routes_are_pytorch_with_the_same_integers(int8: Exported) -> None:
    overlaps = []
    for seq in random_histories(6, ITEMS, LENGTH).split(1):
        for route in INTEGER_SPACE:
            scores, ids, expected = answers(int8, route.entry, seq)
            assert (scores - expected.gather(1, ids)).abs().max() <= 0.1 * expected[:, 1:].abs().max()
            best = expected.topk(10).indices
            overlaps.append((ids[0, :10, None] == best).any(1).float().mean())
    assert torch.stack(overlaps).mean() >= 0.9


@torch.no_grad()
def test_the_router_is_pytorchs(either: Exported) -> None:
    router = either.program.load_method("router")
    chosen = []
    for seq in random_histories(60, ITEMS, LENGTH).split(1):
        for point in range(len(POINTS)):
            (found,) = router.execute([seq.to(torch.int32), torch.tensor([point], dtype=torch.int32)])
            assert found.dtype == torch.int64
            assert torch.equal(found, either.job.reference.route(seq, point))
            chosen.append(int(found))
    assert len({tuple(chosen[point :: len(POINTS)]) for point in range(len(POINTS))}) == len(POINTS)


def test_a_point_costs_one_look_up_outside_the_delegate(either: Exported) -> None:
    router, route = either.result.delegation[:2]
    own = 1 if either.integers is not None else 2  # of the item table's kind in float32
    assert router.undelegated["aten::embedding.out"] == own
    assert sum(router.undelegated.values()) == sum(route.undelegated.values()) + 1


def test_a_point_that_does_not_exist_is_an_error(either: Exported) -> None:
    router = either.program.load_method("router")
    for point in (-1, len(POINTS)):
        with pytest.raises(RuntimeError, match="0x12"):
            router.execute(
                [torch.ones(1, LENGTH, dtype=torch.int32), torch.tensor([point], dtype=torch.int32)]
            )


def test_every_method_is_one_delegate(either: Exported) -> None:
    assert [row.entry for row in either.result.delegation] == [
        "router",
        *(r.entry for r in either.job.canet.space),
    ]
    for row in either.result.delegation:
        assert row.partitions == 1
        allowed = {
            "embedding",
            "embedding_byte",
            "eq",
            "unsqueeze_copy",
            "topk",
            "argmax",
            "_to_dim_order_copy",
            # An id that is no item's becomes padding before the look-up, which stays outside, too.
            "lt",
            "ge",
            "bitwise_or",
            "where",
            "scalar_tensor",
        }
        names = {name.split("::")[1].split(".")[0] for name in row.undelegated}
        assert names <= allowed


def test_integers_and_scales_stand_verbatim_in_the_file(int8: Exported) -> None:
    blob = int8.path.read_bytes()
    assert int8.integers is not None
    panels = (("supernet.own_classifier", 8), ("supernet.item_table", 16), ("router.item_table", 16))
    for name, first in panels:
        found = int8.integers.tensors[name]
        assert tensor_bytes(found.values[:, :first]) in blob
        assert tensor_bytes(found.scale) in blob
    for part in range(3):
        block = int8.integers.tensors["supernet.blocks.0.qkv_weight"]
        assert tensor_bytes(block.values[part, :8, :8]) in blob
        assert tensor_bytes(block.scale[part, :8]) in blob


def test_a_changed_constant_is_a_failure_that_names_it(fp32: Exported, tmp_path: Path) -> None:
    path, blob = tmp_path / "canet.pte", fp32.path.read_bytes()
    path.write_bytes(blob)
    assert check_stored(tmp_path, fp32.job).passed
    graph = job_graphs(fp32.job)["e8_h8_d2"]
    weight = next(t for name, t in constants(graph) if name == "blocks.0.ffn1.weight")
    path.write_bytes(blob.replace(tensor_bytes(weight), tensor_bytes(weight + 1)))
    (failure,) = check_stored(tmp_path, fp32.job).failures
    assert (failure.entry, failure.tensor) == ("e8_h8_d2", "blocks.0.ffn1.weight")


def test_altered_points_are_a_failure_that_names_them(either: Exported, tmp_path: Path) -> None:
    path, blob = tmp_path / "canet.pte", bytearray(either.path.read_bytes())
    assert either.job.canet.router is not None
    place = blob.find(tensor_bytes(either.job.canet.router.points))
    blob[place + 4] ^= 1  # the lowest bit of one offset
    path.write_bytes(blob)
    (failure,) = check_stored(tmp_path, either.job).failures
    assert (failure.entry, failure.tensor) == ("router", "points")
    assert f"1 other byte(s) at offset {place + 4} of canet.pte" in failure.found


def test_constants_are_stored_once(either: Exported) -> None:
    sizes = either.result.sizes
    parts = ("item_table", "classifier", "layers", "router", "graph")
    assert sum(getattr(sizes, f"{part}_bytes") for part in parts) == sizes.total_bytes
    width = 1 if either.integers is not None else 4
    scales = 4 if either.integers is not None else 0
    assert sizes.item_table_bytes == (ITEMS + 1) * (16 * width + scales)
    assert sizes.classifier_bytes == (ITEMS + 1) * (16 * width + scales + 4)
    assert either.path.read_bytes().count(tensor_bytes(either.job.canet.supernet.positions)) == 1


def test_errors_of_the_caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canet = random_canet(items=5, length=4, space=RoutingSpace((8,), (8,), (1,)))
    with pytest.raises(CanetError, match="k is 6, the model has 5 items"):
        make_job(canet, False, 6)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(CanetError, match=r"pip install 'canet-mobile\[executorch\]'"):
        export(make_job(canet, False, 2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_fast_lowering_writes_the_same_bytes(
    int8: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from contextlib import nullcontext

    unrouted = Canet(int8.job.canet.supernet, None)
    # The third is of the same kinds as the second, and does without the passes that found nothing there.
    job = make_job(unrouted, True, routes=INTEGER_SPACE.routes[1:])
    written = []
    for name, context in (("fast", fast_lowering), ("stock", nullcontext)):
        monkeypatch.setattr(exporter, "fast_lowering", context)
        (tmp_path / name).mkdir()
        result = export(job, tmp_path / name)
        written.append((tmp_path / name / result.model_file).read_bytes())
    assert written[0] == written[1]
