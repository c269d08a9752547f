"""The reports on a package as typed objects, read once, at the door, by whoever did not make them.

Latencies are milliseconds, costs MFLOPs, memory bytes. A figure that was not measured is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canet_mobile.files import read_json
from canet_mobile.package.lists import Check, Failure
from canet_mobile.package.manifest import Quantization, Seen, Target
from canet_mobile.schema import typed, validate


@dataclass(frozen=True)
class About:
    """The package a report is about; ``sha256`` of its manifest is its identity."""

    name: str
    path: str
    sha256: str
    target: Target
    quantization: Quantization
    seen: Seen
    k: int
    dataset_hash: str
    checkpoint_sha256: str


@dataclass(frozen=True)
class RanOn:
    """What ran a package."""

    name: str
    runtime: str
    threads: int


@dataclass(frozen=True)
class Machine:
    """Where that was."""

    python: str
    platform: str
    cpu: str
    cores: int


@dataclass(frozen=True)
class Users:
    """The held-out users of a replay, and how many there are in all."""

    name: str
    content_hash: str
    split: str
    users: int
    of: int


@dataclass(frozen=True)
class Metrics:
    """NDCG@10 and Recall@10."""

    ndcg10: float
    recall10: float


@dataclass(frozen=True)
class Agreement:
    """Package against PyTorch fp32: share of users routed alike, mean share of the top 10 in common."""

    router: float
    top10_overlap: float


@dataclass(frozen=True)
class Cost:
    """Of an entry, or the mean per user with the router included (``entry`` None)."""

    paper_mflops: float
    executed_mflops: float
    entry: str | None = None


@dataclass(frozen=True)
class Percentiles:
    """Of a latency in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Latency:
    """Wall time of the calls alone, warm."""

    router: Percentiles
    submodel: Percentiles
    total: Percentiles


@dataclass(frozen=True)
class Loading:
    """Milliseconds until the program and the router were there, and of the router's first run."""

    program: float
    router: float
    router_first_run: float


@dataclass(frozen=True)
class Memory:
    """Resident memory of the whole process."""

    before_load: int | None
    after_replay: int | None
    process_peak: int | None


@dataclass(frozen=True)
class RouteUse:
    """A route, and the users that it was chosen for."""

    id: int
    entry: str
    users: int
    pytorch_users: int | None
    paper_mflops: float
    executed_mflops: float
    metrics: Metrics | None
    load_ms: float | None
    first_run_ms: float | None
    latency_ms: Latency | None


@dataclass(frozen=True)
class ReplayReport:
    """What `canet-mobile replay` wrote, by schemas/replay.schema.json."""

    created_by: str
    created_at: str
    package: About
    device: RanOn
    machine: Machine
    point: str | None
    data: Users
    metrics: Metrics
    pytorch: Metrics | None
    agreement: Agreement | None
    cost: Cost
    largest: Cost
    latency_ms: Latency
    load_ms: Loading
    memory_bytes: Memory
    routes: tuple[RouteUse, ...]


@dataclass(frozen=True)
class ParityReport:
    """What `canet-mobile parity` wrote, by schemas/parity.schema.json; the worst failure first."""

    created_by: str
    created_at: str
    package: About
    machine: Machine
    level: str
    checkpoint: bool
    passed: bool
    checks: tuple[Check, ...]
    failures: tuple[Failure, ...]


def read_replay_report(path: Path) -> ReplayReport:
    """Read a replay report.

    Raises:
        CanetError: it is missing, no JSON that every parser reads alike, or not of its schema.
    """
    found = _document(path, "replay")
    metrics, agreement, costs = found["metrics"], found["agreement"], found["costs"]
    return ReplayReport(
        created_by=found["created_by"],
        created_at=found["created_at"],
        package=typed(About, found["package"]),
        device=typed(RanOn, found["device"]),
        machine=typed(Machine, found["machine"]),
        point=found["point"],
        data=typed(Users, found["data"]),
        metrics=_metrics(metrics["package"]),
        pytorch=None if metrics["pytorch"] is None else _metrics(metrics["pytorch"]),
        agreement=None if agreement is None else typed(Agreement, agreement),
        cost=typed(Cost, costs),
        largest=typed(Cost, costs["largest"]),
        latency_ms=_latency(found["latency_ms"]),
        load_ms=typed(Loading, found["load_ms"]),
        memory_bytes=typed(Memory, found["memory_bytes"]),
        routes=tuple(
            typed(
                RouteUse,
                {
                    **row,
                    "metrics": None if row["metrics"] is None else _metrics(row["metrics"]),
                    "latency_ms": None if row["latency_ms"] is None else _latency(row["latency_ms"]),
                },
            )
            for row in found["routes"]
        ),
    )


def read_parity_report(path: Path) -> ParityReport:
    """Read a parity report.

    Raises:
        CanetError: it is missing, no JSON that every parser reads alike, or not of its schema.
    """
    found = _document(path, "parity")
    return ParityReport(
        created_by=found["created_by"],
        created_at=found["created_at"],
        package=typed(About, found["package"]),
        machine=typed(Machine, found["machine"]),
        level=found["level"],
        checkpoint=found["checkpoint"],
        passed=found["passed"],
        checks=tuple(typed(Check, row) for row in found["checks"]),
        failures=tuple(failure_of(row) for row in found["failures"]),
    )


def failure_of(row: dict[str, Any]) -> Failure:
    """A failure of a parity report; an excess of null is one that admits no error."""
    excess = float("inf") if row["excess"] is None else row["excess"]
    return typed(Failure, {**row, "excess": excess})


def _document(path: Path, schema: str) -> dict[str, Any]:
    found = read_json(path)
    validate(found, schema, where=path)
    document: dict[str, Any] = found
    return document


def _metrics(row: dict[str, float]) -> Metrics:
    return Metrics(row["ndcg@10"], row["recall@10"])


def _latency(row: dict[str, Any]) -> Latency:
    return Latency(*(typed(Percentiles, row[name]) for name in ("router", "submodel", "total")))
