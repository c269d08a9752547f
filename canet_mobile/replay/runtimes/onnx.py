"""ONNX packages on this machine: ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from canet_mobile.errors import unknown_name
from canet_mobile.package.package import Package
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.replay.device import ROUTER, Answer, Device, RuntimeFailure, Sequences
from canet_mobile.telemetry import onnxruntime

FATAL = 4  # log level: errors come as exceptions
ANSWER = ["scores", "ids"]
ROUTER_ALONE = -2


def open_device(package: Package, threads: int) -> Device:
    """Load a package's graph; one session serves the router and every route.

    -2 as ``force_route`` runs the router alone, at the operating point it is given; a route's id runs that
    route, and not the router.

    Raises:
        Refused: the toolkit is missing.
        RuntimeFailure: the graph does not load, or lacks an input or output that the manifest promises. An
            input that has a default is lacking too: Java cannot give it.
    """
    try:
        ort = onnxruntime()
    except ImportError as error:
        raise Refused(
            Code.RUNTIME_MISSING,
            f"running a package on this machine needs ONNX Runtime ({error})",
            fix="pip install 'canet-mobile[onnx]'",
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = FATAL
    # The graph is fused by hand; what further levels would make of it (SkipLayerNormalization) is slower.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    started = time.perf_counter_ns()
    try:
        session = ort.InferenceSession(str(package.model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _failure(package, "the graph does not load", error) from error
    program_ms = (time.perf_counter_ns() - started) / 1e6
    interface = package.manifest.interface
    force, at = interface.route_input, interface.point_input
    _require_names(package, session, ["seq", *(name for name in (force, at) if name)])
    names = dict.fromkeys((route.entry for route in package.routes), ANSWER) | {ROUTER: ["route"]}
    wanted = {route.entry: route.id for route in package.routes} | {ROUTER: ROUTER_ALONE}
    forced = {entry: {force: np.array([value], np.int32)} if force else {} for entry, value in wanted.items()}

    def load(entry: str) -> float:
        if entry not in forced:
            raise unknown_name("entry", entry, list(forced), where=package.model_path)
        return 0.0  # the session is whole from the start

    constant: list[Answer] = []  # a plain graph has no router: its route is read once, and costs nothing

    def call(entry: str, seq: Sequences, point: int) -> Answer:
        load(entry)
        if entry == ROUTER and constant:
            return constant[0]
        feeds = {"seq": np.ascontiguousarray(seq, dtype=np.int32)[None], **forced[entry]}
        if at:  # which a route does not read
            feeds[at] = np.array([point], np.int32)
        try:
            start = time.perf_counter_ns()
            outputs = session.run(names[entry], feeds)
            taken = time.perf_counter_ns() - start
        except Exception as error:
            raise _failure(package, f"the entry {entry!r} failed", error) from error
        if entry == ROUTER and force is None:
            constant.append(Answer(tuple(outputs), 0))
            return constant[0]
        return Answer(tuple(outputs), taken)

    return Device("host", f"onnxruntime {ort.__version__}", threads, program_ms, load, call)


def _require_names(package: Package, session: Any, inputs: list[str]) -> None:
    has = {value.name for value in (*session.get_inputs(), *session.get_outputs())}
    missing = sorted({*inputs, "route", *ANSWER} - has)
    if missing:
        raise RuntimeFailure(
            f"does not have {', '.join(missing)}, which the manifest promises",
            where=package.model_path,
            fix="export the package again",
        )


def _failure(package: Package, what: str, error: Exception) -> RuntimeFailure:
    """The runtime's errors have no class in common; this one names the file and what was done."""
    return RuntimeFailure(
        f"{what}: {error}",
        where=package.model_path,
        fix="export the package again with this version of onnxruntime",
    )
