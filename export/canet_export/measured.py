"""What a package gives and costs on held-out users, at each of its operating points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from canet_export.accuracy import TOP, mean_ndcg
from canet_export.job import Job
from canet_mobile.data.lists import is_enough
from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.spent import Costs
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.package import Package
from canet_mobile.replay.device import open_device, run_entry, run_router
from canet_mobile.replay.reference import Lists, lists_at


@dataclass(frozen=True)
class PointFigures:
    """One operating point on held-out users.

    Args:
        point: its id.
        paper_mflops, executed_mflops: of the mean request, router included.
        shares: share of the users whom PyTorch with the package's numbers gives each entry; none is 0.
        router_agreement: share of the users whom it routes as PyTorch fp32 does.
        pytorch_fp32, pytorch_same_integers: NDCG@10 of PyTorch with either's numbers; the second is None
            where the package holds no integers.
        package_host: NDCG@10 of the package on its host runtime; None before it ran.
    """

    point: int
    paper_mflops: float
    executed_mflops: float
    shares: dict[str, float]
    router_agreement: float
    pytorch_fp32: float
    pytorch_same_integers: float | None
    package_host: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For the manifest's ``operating_points``."""
        figures = {name: value for name, value in vars(self).items() if name != "point"}
        return {"id": self.point, "name": POINTS[self.point], **figures}


@dataclass(frozen=True)
class Measured:
    """The figures of a package's operating points, or of the balanced one alone where nothing is routed.

    Args:
        seen: the package's policy.
        users: number of validation users.
        points: in ascending id.
    """

    seen: str
    users: int
    points: tuple[PointFigures, ...]

    def accuracy(self) -> dict[str, Any]:
        """The manifest's ``accuracy``: NDCG@10 at the balanced point."""
        balanced = next(figures for figures in self.points if figures.point == BALANCED)
        names = ("router_agreement", "pytorch_fp32", "pytorch_same_integers", "package_host")
        return {
            "metric": f"ndcg@{TOP}",
            "split": "validation",
            "seen": self.seen,
            "users": self.users,
            **{name: getattr(balanced, name) for name in names},
        }

    def operating_points(self) -> list[dict[str, Any]]:
        """The manifest's ``operating_points`` of a package with a router."""
        return [figures.to_json() for figures in self.points]


def unmeasured_points() -> list[dict[str, Any]]:
    """``operating_points`` of a package with a router that ran for no held-out user."""
    fields = [name for name in PointFigures.__dataclass_fields__ if name != "point"]
    return [{"id": number, "name": name, **dict.fromkeys(fields)} for number, name in enumerate(POINTS)]


def measure(canet: Canet, job: Job, queries: HeldOut) -> Measured | None:
    """All but the package's own figures; None without users, or of lists too short for NDCG@10.

    Args:
        canet: as trained, its router restricted to the job's routes.
        job: what is exported.
        queries: validation users.
    """
    config = canet.supernet.config
    enough = is_enough(job.k, TOP, items=config.items, length=config.length, seen=job.seen)
    if not enough or not len(queries):
        return None
    seqs = queries.inputs(slice(None), config.length)
    points = range(len(POINTS)) if job.has_router else (BALANCED,)
    exact, ours = (lists_at(model, seqs, job.k, job.seen, points) for model in (canet, job.reference))
    each = zip(points, exact, ours, strict=True)
    return Measured(job.seen, len(queries), tuple(_figures(job, queries, *found) for found in each))


def _figures(job: Job, queries: HeldOut, point: int, exact: Lists, ours: Lists) -> PointFigures:
    paper, executed = Costs.of(job.canet).average(ours.routes)
    routes = job.canet.space.routes
    counts = Counter(ours.routes.tolist())
    return PointFigures(
        point=point,
        paper_mflops=paper,
        executed_mflops=executed,
        shares={routes[number].entry: count / len(queries) for number, count in sorted(counts.items())},
        router_agreement=float((ours.routes == exact.routes).mean()),
        pytorch_fp32=mean_ndcg(exact.ids, queries),
        pytorch_same_integers=None if job.integers is None else mean_ndcg(ours.ids, queries),
    )


def with_package(measured: Measured, package: Package, queries: HeldOut) -> Measured:
    """The same with NDCG@10 of the package on its host runtime, at every operating point."""
    found = _run(package, queries, [figures.point for figures in measured.points])
    each = zip(measured.points, found, strict=True)
    return replace(measured, points=tuple(replace(figures, package_host=ndcg) for figures, ndcg in each))


def _run(package: Package, queries: HeldOut, points: Sequence[int]) -> list[float]:
    """The router at every point, then the entries it named: once per user and route, whatever named it."""
    device = open_device(package)
    ids = np.zeros((len(points), len(queries), package.k), np.int64)
    for row, seq in enumerate(queries.inputs(slice(None), package.length)):
        chosen = [package.route(run_router(device, seq, point)[0]).entry for point in points]
        lists = {entry: run_entry(device, entry, seq, package.k)[1] for entry in dict.fromkeys(chosen)}
        ids[:, row] = [lists[entry] for entry in chosen]
    return [mean_ndcg(each, queries) for each in ids]
