"""Small models of every kind, their ONNX graphs and PyTorch's answers, for the ONNX tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import lively, random_canet

from canet_export.graph import restricted
from canet_export.job import ExportResult, Job
from canet_export.onnx.export import export
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.points import BALANCED
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.replay.reference import route_scores

ITEMS, LENGTH, K = 150, 10, 12
ASK, ROUTER_ALONE = -1, -2


def toy(
    space: RoutingSpace,
    *,
    table: str = "shared",
    tied: bool = False,
    router_width: int | None = None,
    has_router: bool = True,
    in_projection: bool = True,
    items: int = ITEMS,
    seed: int = 3,
) -> Canet:
    """A random model whose every weight, lambda and scale matters."""
    torch.manual_seed(seed)
    config = SupernetConfig(items, LENGTH, space, tied=tied, in_projection=in_projection)
    supernet = Supernet(config)
    generator = torch.Generator().manual_seed(seed)
    lively(supernet, generator)
    with torch.no_grad():
        supernet.item_table.mul_(20)
        if not tied:
            supernet.own_classifier.mul_(20)
        supernet.classifier_bias[0] = -1e4
        for block in supernet.blocks:
            block.residual2.fill_(-0.7)  # type: ignore[operator, union-attr]
    router = None
    if has_router:
        width = router_width or space.embedding[0]
        router = Router(RouterConfig(items, LENGTH, len(space), table, width=width))  # type: ignore[arg-type]
        lively(router, generator)
        with torch.no_grad():
            router.head_weight.mul_(3)
            router.points.normal_(generator=generator)
            if table == "shared":
                router.table_scale.fill_(1.5)
            else:
                router.item_table.mul_(20)
    return Canet(supernet, router).eval()


@dataclass(frozen=True)
class Exported:
    """An exported job and its session."""

    job: Job
    result: ExportResult
    folder: Path
    session: Any

    def answer(self, seq: np.ndarray, force: int = ASK, point: int = BALANCED) -> tuple[Any, ...]:
        """route, scores, ids of one history [L]; a plain graph takes several, [N, L], and nothing else."""
        feeds = {"seq": np.atleast_2d(seq).astype(np.int32)}
        if not self.job.plain:
            feeds |= {"force_route": np.array([force], np.int32), "point": np.array([point], np.int32)}
        return tuple(self.session.run(["route", "scores", "ids"], feeds))

    def expected(self, seq: np.ndarray, route: Route) -> torch.Tensor:
        """PyTorch's score of every class, with the package's numbers."""
        return route_scores(self.job.reference, np.atleast_2d(seq), route, self.job.seen)[0]

    def expected_route(self, seq: np.ndarray, point: int = BALANCED) -> int:
        """PyTorch's route."""
        return int(self.job.reference.route(torch.from_numpy(np.atleast_2d(seq)).long(), point))


def open_session(path: Path) -> Any:
    """A session on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_job(
    canet: Canet,
    quantization: str = "fp32",
    routes: Sequence[Route] = (),
    *,
    higher: Sequence[str] = (),
    **options: Any,
) -> Job:
    """A job of the given routes, all by default, as packaging makes it."""
    chosen = tuple(routes or canet.space.routes)
    model = restricted(canet, [canet.space.id_of(route) for route in chosen])
    bits = {"int8": 8, "int4": 4}.get(quantization)
    integers = quantize_model(model, bits, higher=frozenset(higher)) if bits else None  # type: ignore[arg-type]
    return Job(model, integers, quantization, chosen, K, **options)  # type: ignore[arg-type]


def exported(folder: Path, job: Job) -> Exported:
    """Export a job into a folder and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    result = export(job, folder)
    return Exported(job, result, folder, open_session(folder / result.model_file))


def histories(n: int = 3, items: int = ITEMS, seed: int = 0) -> list[np.ndarray]:
    """Histories [L]: the first of one item, the second full, the others in between."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(n):
        size = {0: 1, 1: LENGTH}.get(number, int(generator.integers(2, LENGTH)))
        seq = np.zeros(LENGTH, np.int32)
        seq[LENGTH - size :] = generator.integers(1, items + 1, size)
        found.append(seq)
    return found


__all__ = ["Exported", "exported", "histories", "make_job", "random_canet", "toy"]
