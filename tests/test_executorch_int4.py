"""int4 in ExecuTorch: two integers in a byte, two orders of packing, scales that survive bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_canet, random_histories

pytest.importorskip("executorch")

from canet_export.checks import LIMITS
from canet_export.executorch.export import export, job_graphs
from canet_export.executorch.operators import Int4Embedding, Int4Linear, Int8Linear, packed
from canet_export.executorch.stored import check_stored
from canet_export.job import ExportResult, Job
from canet_mobile.machine import quiet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace

ITEMS, LENGTH, K = 150, 10, 12
SPACE = RoutingSpace((32, 64), (32, 64), (2,))
HIGHER = frozenset({"supernet.blocks.1.ffn1_weight"})  # 8 bits in an int4 job


@dataclass(frozen=True)
class Exported:
    job: Job
    result: ExportResult
    directory: Path
    program: Any


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with quiet():
        import executorch.kernels.quantized  # noqa: F401
        from executorch.runtime import Runtime
    canet = random_canet(items=ITEMS, length=LENGTH, space=SPACE, table="own")
    routes = (SPACE.routes[0], SPACE.routes[1], SPACE.routes[3])
    job = Job(canet, quantize_model(canet, 4, higher=HIGHER), "int4", routes, K, "exclude")
    folder = tmp_path_factory.mktemp("int4")
    result = export(job, folder)
    return Exported(job, result, folder, Runtime.get().load_program(folder / result.model_file))


@torch.no_grad()
def test_routes_and_router_are_pytorch_with_the_same_integers(int4: Exported) -> None:
    graphs = job_graphs(int4.job)
    limits = LIMITS["int4"]
    for seq in random_histories(6, ITEMS, LENGTH).to(torch.int32).split(1):
        for point in range(len(POINTS)):
            inputs = [seq, torch.tensor([point], dtype=torch.int32)]
            (route,) = int4.program.load_method("router").execute(inputs)
            assert torch.equal(route, int4.job.reference.route(seq.long(), point))
        for entry in ("e32_h32_d2", "e32_h64_d2", "e64_h64_d2"):
            scores, ids = int4.program.load_method(entry).execute([seq])
            states = int4.job.reference.supernet.sliced(seq.long(), SPACE.named(entry))
            full = int4.job.reference.supernet.scores(states[:, -1])
            error = (scores - full.gather(1, ids)).abs().max()
            assert error <= limits.tolerance(full[:, 1:].numpy())
            assert not set(ids[0].tolist()) & set(seq[0].tolist())
            # The graph quantizes activations as XNNPACK does, so only rounding at ties is left.
            assert (scores - graphs[entry](seq)[0]).abs().max() <= 0.02 * full[:, 1:].abs().max()


def test_every_route_is_one_delegate_and_tensors_have_the_bits_of_the_job(int4: Exported) -> None:
    assert all(row.partitions == 1 for row in int4.result.delegation)
    graph = job_graphs(int4.job)["e64_h64_d2"]
    assert isinstance(graph.blocks[0].ffn1, Int4Linear)  # type: ignore[index, union-attr]
    assert isinstance(graph.blocks[1].ffn1, Int8Linear)  # type: ignore[index, union-attr]
    assert all(isinstance(panel, Int4Embedding) for panel in graph.table)  # type: ignore[union-attr]
    names = {row.entry: set(row.undelegated) for row in int4.result.delegation}
    assert "quantized_decomposed::embedding_4bit.out" in names["e32_h32_d2"]
    assert "quantized_decomposed::embedding_byte.out" in names["router"]  # its own table stays at 8 bits


def test_integers_are_read_back_from_their_packing(int4: Exported, tmp_path: Path) -> None:
    check = check_stored(int4.directory, int4.job)
    assert check.passed, check.failures
    assert int4.job.integers is not None
    blob = bytearray((int4.directory / "canet.pte").read_bytes())
    values = int4.job.integers.tensors["supernet.own_classifier"].values[:, :32]
    low_first = packed(values, even_is_high=False).numpy().tobytes()
    assert blob.count(low_first) == 1
    blob[blob.find(low_first) + 16 * 7] ^= 0x10  # item 7, its second integer, by one
    (tmp_path / "canet.pte").write_bytes(bytes(blob))
    (failure,) = check_stored(tmp_path, int4.job).failures
    assert (failure.entry, failure.tensor) == ("e32_h32_d2", "classifier.0.values")
    assert "1 other byte(s)" in failure.found


def test_packing() -> None:
    values = torch.tensor([[-7, 7, 0, -1]], dtype=torch.int8)
    assert packed(values, even_is_high=True).tolist() == [[0x1F, 0x87]]
    assert packed(values, even_is_high=False).tolist() == [[0xF1, 0x78]]


def test_scales_are_exact_in_bfloat16(int4: Exported) -> None:
    assert int4.job.integers is not None
    for found in int4.job.integers.tensors.values():
        if found.bits == 4:
            assert torch.equal(found.scale.bfloat16().float(), found.scale)
            assert torch.equal(found.scale.half().float(), found.scale)
