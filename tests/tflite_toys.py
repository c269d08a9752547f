"""Jobs of every kind for the tests of the written .tflite, and a device that runs what was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from conftest import lively, random_canet, toy_points

from canet_export.job import ExportResult, Job
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import quantize_model
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.replay.device import Device
from canet_mobile.replay.runtimes.tflite import open_device

ITEMS, LENGTH, K = 150, 10, 12


def canet_of(space: RoutingSpace, *, tied: bool = False, router: RouterConfig | None = None) -> Canet:
    """A random model with a router of any kind or none; one route alone has no projection."""
    torch.manual_seed(1)
    config = SupernetConfig(ITEMS, LENGTH, space, tied=tied, in_projection=len(space) > 1)
    supernet, generator = Supernet(config), torch.Generator().manual_seed(1)
    lively(supernet, generator)
    found = None if router is None else Router(router)
    if found is not None:
        lively(found, generator)
        if router is not None and router.table == "shared":
            found.table_scale.fill_(1.7)
        found.points.copy_(toy_points(len(space), generator))
    return Canet(supernet, found).eval()


def job_of(name: str) -> Job:  # noqa: PLR0911  a table of cases
    """One of the cases: presets, tables, ties and routers of every kind."""
    if name == "fp32":
        canet = random_canet(items=ITEMS, length=LENGTH, space=RoutingSpace((8, 16), (8, 16), (2,)))
        return Job(canet, None, "fp32", canet.space.routes, K)
    if name == "int8":
        space = RoutingSpace((8, 16), (16,), (1, 3))
        canet = random_canet(items=ITEMS, length=LENGTH, space=space, table="own")
        labels = tuple(f"item {n}" for n in range(1, ITEMS + 1))
        integers = quantize_model(canet)
        return Job(canet, integers, "int8", canet.space.routes, K, "exclude", item_labels=labels)
    if name == "int4":
        canet = canet_of(RoutingSpace((64,), (32, 64), (1,)), router=RouterConfig(ITEMS, LENGTH, 2, "shared"))
        return Job(canet, quantize_model(canet, 4), "int4", canet.space.routes, K, "exclude")
    if name == "tied int4":
        canet = canet_of(RoutingSpace((32, 64), (64,), (1,)), tied=True)
        return Job(canet, quantize_model(canet, 4), "int4", canet.space.routes, K)
    if name == "tied":
        canet = canet_of(RoutingSpace((8, 16), (16,), (2,)), tied=True)
        return Job(canet, quantize_model(canet), "int8", canet.space.routes, K)
    if name == "routed fp16":  # the scale of a shared table stands behind rows that were widened
        space = RoutingSpace((8, 16), (16,), (1,))
        canet = canet_of(space, router=RouterConfig(ITEMS, LENGTH, len(space), "shared", width=8))
        return Job(canet, None, "fp16", canet.space.routes, K)
    if name == "plain":
        canet = canet_of(RoutingSpace((16,), (16,), (2,)))
        return Job(canet, None, "fp16", canet.space.routes, K)
    space = RoutingSpace((8, 16, 24), (16,), (1,))
    router = RouterConfig(ITEMS, LENGTH, len(space), "shared", width=20)
    canet = canet_of(space, router=router)
    return Job(canet, quantize_model(canet), "int8", canet.space.routes[1:2], K)


@dataclass(frozen=True)
class Exported:
    job: Job
    result: ExportResult
    path: Path
    device: Device


def opened(job: Job, path: Path, result: ExportResult) -> Device:
    package = SimpleNamespace(
        manifest=SimpleNamespace(runtime=result.runtime),
        model_path=path,
        length=LENGTH,
        index_dtype=result.index_dtype,
        routes=[SimpleNamespace(entry=route.entry) for route in job.routes],
    )
    return open_device(package, 1)  # type: ignore[arg-type]
