"""ONNX: one graph for the router and every route (canet.onnx), and the same in ORT format (canet.ort)."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_export.job import ExportResult, Job, Progress
from canet_export.onnx.model import ASK, ASK_ONLY, FORCE, build_graph, build_model
from canet_export.onnx.nodes import IR_VERSION, MINIMUM_ONNXRUNTIME, OPSET
from canet_export.onnx.ort_format import require_same_answers, write_ort
from canet_export.sizes import Sizes
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet
from canet_mobile.model.points import BALANCED, POINT_INPUT, POINTS
from canet_mobile.telemetry import onnxruntime

MODEL_FILE = "canet.onnx"
ORT_FILE = "canet.ort"
ORT_PRESETS = ("fp32", "int8")
OPERATORS_FILE = "required_operators.config"
MINIMUM_OS = {"android": "API 24", "ios": "15.1"}
# Parts of the file by how an initializer's name begins, first match first.
PARTS = (
    ("supernet.item_table", "item_table"),
    ("supernet.own_classifier", "classifier"),
    ("supernet.classifier_bias", "classifier"),
    ("supernet.", "layers"),
    ("router.", "router"),
)


def export(job: Job, out_dir: Path, progress: Progress = lambda _: None) -> ExportResult:
    """Write ``canet.onnx`` and, for fp32 and int8, ``canet.ort`` with the same numbers.

    Args:
        job: what to write.
        out_dir: an existing folder.
        progress: told what is being done.

    Raises:
        CanetError: the toolkit is missing, or the two files do not answer alike.
    """
    kit = _toolkit()
    progress("build the graph")
    model = build_model(job)
    kit.onnx.checker.check_model(model)
    path = out_dir / MODEL_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    files: tuple[str, ...] = (MODEL_FILE,)
    # Halves and four bits are turned into floats when an .onnx is loaded; an .ort is run as it stands.
    if job.quantization in ORT_PRESETS:
        progress("write the ORT format")
        write_ort(path, out_dir / ORT_FILE, out_dir / OPERATORS_FILE)
        require_same_answers(path, out_dir / ORT_FILE, _probes(job))
        files = (MODEL_FILE, ORT_FILE, OPERATORS_FILE)
    interface: dict[str, Any] = {"style": "one_graph"}
    interface |= {"plain": True} if job.plain else {"route_input": FORCE}
    runtime: dict[str, str | int | bool] = {
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "minimum_onnxruntime": MINIMUM_ONNXRUNTIME,
        "graph_optimization_level": "basic",
        "dynamic_batch": job.plain,
    }
    if not job.plain:
        runtime["router_alone"] = ASK_ONLY
    if len(files) > 1:
        runtime["ort_file"] = ORT_FILE
    return ExportResult(
        model_file=MODEL_FILE,
        files=files,
        exporter={"onnx": version("onnx"), "onnxruntime": version("onnxruntime")},
        sizes=measure_sizes(job, path.stat().st_size),
        minimum_os=MINIMUM_OS,
        index_dtype="int64",
        interface=interface,
        runtime=runtime,
    )


def _probes(job: Job) -> list[dict[str, NDArray[np.int32]]]:
    """A history for the router's choice at every operating point, the first and the last route."""
    length, items = job.canet.supernet.config.length, job.canet.supernet.config.items
    seq = (1 + np.arange(length, dtype=np.int32) % items)[None]
    seq[0, : length // 2] = 0
    if job.plain:
        return [{"seq": seq}]
    given = [(ASK, point) for point in range(len(POINTS))]
    given += [(job.canet.space.id_of(route), BALANCED) for route in (job.routes[0], job.routes[-1])]
    return [
        {"seq": seq, FORCE: np.array([force], np.int32), POINT_INPUT: np.array([point], np.int32)}
        for force, point in given
    ]


def measure_sizes(job: Job, total: int) -> Sizes:
    """Where the bytes of the file are; the full model alone and the separate files are built, not written."""
    parts = {f"{part}_bytes": 0 for _, part in PARTS}
    for name, array in build_graph(job).stored().items():
        part = next((part for start, part in PARTS if name.startswith(start)), None)
        if part is not None:
            parts[f"{part}_bytes"] += array.nbytes

    def alone(route: Any) -> int:
        return build_graph(replace(job, routes=(route,), plain=True)).file_bytes()

    routes = sum(alone(route) for route in job.routes)
    router = build_graph(job, router_only=True).file_bytes()
    return Sizes(
        total_bytes=total,
        **parts,
        graph_bytes=total - sum(parts.values()),
        full_model_alone_bytes=alone(job.canet.space.largest),
        separate_files_bytes=routes + router,
    )


def require_toolkit() -> None:
    """Raises: CanetError: onnx or onnxruntime is missing; names the extra to install."""
    _toolkit()


def _toolkit() -> SimpleNamespace:
    try:
        with quiet():
            import onnx

            runtime = onnxruntime()
    except ImportError as error:
        raise CanetError(
            f"exporting to onnx needs onnx and onnxruntime ({error})", fix="pip install 'canet-mobile[onnx]'"
        ) from error
    return SimpleNamespace(onnx=onnx, onnxruntime=runtime)
