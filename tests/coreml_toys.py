"""Small Core ML packages that the tests of this target share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import lively
from torch import Tensor

from canet_export.checks import LIMITS
from canet_export.coreml.export import MAIN, export
from canet_export.job import ExportResult, Job
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import BALANCED
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.package.lists import compare_lists
from canet_mobile.replay.mil.interpreter import Loader, Program
from canet_mobile.replay.mil.model import MilModel, open_mlpackage
from canet_mobile.replay.reference import route_scores

ITEMS, LENGTH, K = 150, 10, 12
SPACE = RoutingSpace((32, 64), (32, 64), (1, 2))
BITS = {"int8": 8, "int4": 4}


def toy(
    *,
    items: int = ITEMS,
    space: RoutingSpace = SPACE,
    table: str | None = "shared",
    tied: bool = False,
    in_projection: bool = True,
    router_width: int = 32,
) -> Canet:
    """An untrained model in eval mode whose every weight matters; ``table=None``: no router."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    supernet = Supernet(SupernetConfig(items, LENGTH, space, tied=tied, in_projection=in_projection))
    lively(supernet, generator)
    if table is None:
        return Canet(supernet, None).eval()
    router = Router(RouterConfig(items, LENGTH, len(space), table, width=router_width))  # type: ignore[arg-type]
    lively(router, generator)
    router.points.normal_(generator=generator)
    if table == "shared":
        router.table_scale.fill_(7.5)
    else:
        router.item_table.data.mul_(20)  # so that the history says more than the biases
    return Canet(supernet, router).eval()


def inputs(entry: str, seq: Tensor, point: int = BALANCED) -> dict[str, np.ndarray]:
    """What an entry is given: one history [1, L], and the router an operating point."""
    given = {"seq": seq.to(torch.int32).numpy()}
    return given | {"point": np.array([point], np.int32)} if entry == "router" else given


@dataclass(frozen=True)
class Made:
    """A written package."""

    job: Job
    result: ExportResult
    folder: Path
    programs: dict[str, Program] = field(default_factory=dict)

    def place(self, entry: str) -> tuple[Path, str]:
        """The .mlpackage and the function of an entry."""
        files = self.result.interface.get("files")
        if files:
            return self.folder / files[entry], MAIN
        return self.folder / self.result.model_file, entry

    def model(self, entry: str = "router") -> MilModel:
        """The opened .mlpackage of an entry."""
        return open_mlpackage(self.place(entry)[0])

    def run(self, entry: str, seq: Tensor, point: int = BALANCED) -> dict[str, np.ndarray]:
        """An entry on one history [1, L]; the router at an operating point."""
        if entry not in self.programs:
            self.programs[entry] = Loader(self.model(entry)).load(self.place(entry)[1])
        return self.programs[entry](**inputs(entry, seq, point))

    def require_alike(self, entry: str, seq: Tensor) -> None:
        """The entry's list is that of PyTorch with the same numbers."""
        job = self.job
        full = route_scores(job.reference, seq.int().numpy(), job.canet.space.named(entry), job.seen)[0]
        best = full.topk(job.k)
        found = self.run(entry, seq)
        assert found["scores"].dtype == np.float32
        assert found["ids"].dtype == np.int32
        assert found["scores"].shape == found["ids"].shape == (1, job.k)
        assert np.isfinite(found["scores"]).all()
        scores, ids = found["scores"][0], found["ids"][0].astype(np.int64)
        tolerance = LIMITS[job.quantization].tolerance(best.values.numpy())
        compared = compare_lists(
            best.values.numpy(), best.indices.numpy(), scores, ids, tolerance=tolerance, full=full.numpy()
        )
        assert not compared.differences, (entry, compared.differences)
        if job.seen == "exclude":
            assert not set(ids.tolist()) & set(seq[0].tolist())


def make(folder: Path, canet: Canet, quantization: str, **options: Any) -> Made:
    """Export a model with all of its routes."""
    bits = BITS.get(quantization)
    integers = quantize_model(canet, bits) if bits else None  # type: ignore[arg-type]
    options = {"k": K, "routes": canet.space.routes} | options
    job = Job(canet, integers, quantization, **options)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    return Made(job, export(job, folder), folder)
