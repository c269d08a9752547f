"""ExecuTorch: one program (.pte) with a method per route and one for the router, every route one delegate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from canet_export.executorch.lowering import fast_lowering
from canet_export.executorch.operators import as_stored, prepared
from canet_export.executorch.parts import Parts
from canet_export.graph import ROUTER_ENTRY, build_graphs
from canet_export.job import Delegation, ExportResult, Job, Progress
from canet_export.sizes import Sizes, measure
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet
from canet_mobile.model.space import Route

MODEL_FILE = "canet.pte"
# What an app sets before it loads the program: without it, every loaded route packs a copy of its weights.
RUNTIME: dict[str, str | int | bool] = {
    "backend": "XnnpackBackend",
    "backend_option": "weight_cache_enabled",
    "weight_cache_enabled": True,
}
MINIMUM_OS = {"android": "API 23", "ios": "17.0"}


def job_graphs(job: Job, routes: Sequence[Route] | None = None) -> dict[str, nn.Module]:
    """The router's graph and one per route (of the job, or those given), with the job's integers in place."""
    lengths = job.lengths if routes is None else None
    graphs = build_graphs(job.reference, job.routes if routes is None else routes, job.k, job.seen, lengths)
    return {entry: prepared(graph, job.integers) for entry, graph in graphs.items()}


def export(job: Job, out_dir: Path, progress: Progress = lambda _: None) -> ExportResult:
    """Write ``canet.pte``: methods ``router`` (seq int32 [1, L], point int32 [1] -> route id int64 [1]) and
    one per route (seq -> scores float32 [1, k], ids int64 [1, k]), and the same at every shorter length n
    (``router_n8``, seq int32 [1, 8]).

    Args:
        job: what to write.
        out_dir: an existing folder.
        progress: told what is being done.

    Raises:
        CanetError: the toolkit is missing, or a route is not one delegate.
    """
    kit = _toolkit()
    graphs = job_graphs(job)
    point = torch.zeros(1, dtype=torch.int32)
    with quiet(), torch.no_grad(), fast_lowering():
        programs = {}
        for number, (entry, graph) in enumerate(graphs.items(), start=1):
            progress(f"trace {number}/{len(graphs)}: {entry}")
            seq = torch.zeros(1, cast(int, graph.length), dtype=torch.int32)
            inputs = (seq, point) if entry.startswith(ROUTER_ENTRY) else (seq,)
            programs[entry] = torch.export.export(graph, inputs)
        progress(f"lower {len(graphs)} methods to XNNPACK")
        edge = kit.lower(
            programs,
            partitioner=[_partitioner(kit)],
            compile_config=kit.EdgeConfig(_check_ir_validity=False),
        )
        progress("write the program")
        config = kit.BackendConfig(do_quant_fusion_and_const_prop=job.integers is not None)
        parts = None
        if job.split:
            parts = Parts(graphs, job.routes, edge)
            config.external_constants = parts.tag
        program = edge.to_executorch(config)
    delegation = tuple(map(_delegation, _methods_in_order(program, list(graphs))))
    _require_one_delegate(delegation)
    with (out_dir / MODEL_FILE).open("wb") as file:
        program.write_to_file(file)
    files, once = {}, 0
    if parts is not None:
        program.write_tensor_data_to_file(str(out_dir))
        files, once = parts.files(), parts.once
    return ExportResult(
        model_file=MODEL_FILE,
        files=(MODEL_FILE, *files),
        exporter={"executorch": version("executorch"), "torch": version("torch").partition("+")[0]},
        sizes=_sizes(
            job, graphs, sum((out_dir / name).stat().st_size for name in (MODEL_FILE, *files)), once
        ),
        minimum_os=MINIMUM_OS,
        index_dtype="int64",
        delegation=delegation,
        runtime=dict(RUNTIME),
        parts=files,
    )


def _sizes(job: Job, graphs: dict[str, nn.Module], total: int, once: int) -> Sizes:
    """Where the bytes are; ``once``: bytes of a tied table that stand once for look-up and classifier."""
    largest = job.canet.space.largest
    graphs = {entry: as_stored(graph) for entry, graph in graphs.items()}
    whole = graphs.get(largest.entry) or as_stored(job_graphs(job, [largest])[largest.entry])
    found = measure(graphs, ROUTER_ENTRY, whole, total + once)
    return replace(
        found,
        total_bytes=total,
        classifier_bytes=found.classifier_bytes - once,
        full_model_alone_bytes=(found.full_model_alone_bytes or 0) - once,
    )


def require_toolkit() -> None:
    """Raises: CanetError: ExecuTorch is missing; names the extra to install."""
    _toolkit()


def _toolkit() -> SimpleNamespace:
    """The parts of ExecuTorch in use.

    Raises:
        CanetError: it is not installed.
    """
    try:
        with quiet():
            import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  embedding_byte
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import (
                EdgeCompileConfig,
                ExecutorchBackendConfig,
                to_edge_transform_and_lower,
            )
    except ImportError as error:
        raise CanetError(
            f"exporting to executorch needs ExecuTorch ({error})",
            fix="pip install 'canet-mobile[executorch]'",
        ) from error
    return SimpleNamespace(
        Partitioner=XnnpackPartitioner,
        EdgeConfig=EdgeCompileConfig,
        BackendConfig=ExecutorchBackendConfig,
        lower=to_edge_transform_and_lower,
    )


def _partitioner(kit: SimpleNamespace) -> Any:
    class StaticPartitioner(kit.Partitioner):  # type: ignore[name-defined]
        """Every operator that XNNPACK asks to keep is kept, which spares each method two decompositions."""

        def ops_to_not_decompose(self, program: Any) -> tuple[Any, None]:
            return super().ops_to_not_decompose(program)[0], None

    return StaticPartitioner()


def _methods_in_order(program: Any, entries: list[str]) -> list[Any]:
    plans = {plan.name: plan for plan in program.executorch_program.execution_plan}
    return [plans[entry] for entry in entries]


def _delegation(plan: Any) -> Delegation:
    """Count delegates and operators in a method as written."""
    partitions, calls = 0, Counter[str]()
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if type(call).__name__ == "DelegateCall":
                partitions += 1
            elif type(call).__name__ == "KernelCall":
                operator = plan.operators[call.op_index]
                calls[".".join(filter(None, (operator.name, operator.overload)))] += 1
    return Delegation(plan.name, partitions, dict(sorted(calls.items())))


def _require_one_delegate(delegation: Sequence[Delegation]) -> None:
    for row in delegation:
        if not row.entry.startswith(ROUTER_ENTRY) and row.partitions != 1:
            left = ", ".join(f"{name} ({calls})" for name, calls in row.undelegated.items())
            raise CanetError(
                f"{row.entry} became {row.partitions} XNNPACK delegates, not one; outside stayed {left}",
                fix="this version of ExecuTorch splits the graph: use one in the range of pyproject.toml",
            )
