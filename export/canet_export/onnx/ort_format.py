"""ORT format: what ONNX Runtime loads without its optimizer, mapped into memory if an app wants it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.errors import CanetError
from canet_mobile.telemetry import onnxruntime

FATAL = 4  # ONNX Runtime's log level
# onnx TensorProto numbers, which the format keeps.
DTYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
}  # fmt: skip


def write_ort(source: Path, target: Path, operators: Path) -> None:
    """Convert an .onnx as it stands: its operators are fused already, so that nothing is left to optimize.

    Args:
        source: the .onnx.
        target: the .ort to write.
        operators: the list of operators to write, for an ONNX Runtime built with no others.

    Raises:
        CanetError: ONNX Runtime cannot load or write it.
    """
    ort = onnxruntime()

    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CanetError(f"ONNX Runtime cannot convert it to ORT format: {error}", where=source) from error
    found = sorted(read_operators(target))
    lines = [
        f"{domain};{opset};{','.join(sorted(name for d, o, name in found if (d, o) == (domain, opset)))}"
        for domain, opset in dict.fromkeys((d, o) for d, o, _ in found)
    ]
    operators.write_text(
        "".join(f"{line}\n" for line in (f"# operators of {target.name}", *lines)), encoding="utf-8"
    )


def require_same_answers(source: Path, target: Path, feeds: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Run the .onnx and the .ort on the same inputs.

    Raises:
        CanetError: they answer differently, or one does not run.
    """
    ort = onnxruntime()

    answers = []
    for path in (source, target):
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = FATAL, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            answers.append([session.run(["route", "scores"], feed) for feed in feeds])
        except Exception as error:
            raise CanetError(f"ONNX Runtime cannot run it: {error}", where=path) from error
    for (route, scores), (other_route, other_scores) in zip(*answers, strict=True):
        if not (np.array_equal(route, other_route) and np.allclose(scores, other_scores, 1e-4, 1e-4)):
            raise CanetError(f"does not answer as {source.name} does", where=target, fix="export it again")


def _graph(path: Path) -> Any:
    """The main graph of an .ort, by its flatbuffer schema.

    Raises:
        CanetError: it is none.
    """
    onnxruntime("tools.ort_format_model")  # puts ort_flatbuffers_py on the path

    fbs: Any = sys.modules["ort_flatbuffers_py.fbs"]
    root = fbs.InferenceSession.InferenceSession
    data = path.read_bytes()
    if not root.InferenceSessionBufferHasIdentifier(data, 0):
        raise CanetError("is no ORT format file", where=path)
    return root.GetRootAsInferenceSession(data, 0).Model().Graph()


def read_initializers(path: Path) -> dict[str, NDArray[Any]]:
    """The stored tensors of an .ort by name.

    Raises:
        CanetError: it is no ORT format file, or a damaged one.
    """
    try:
        graph = _graph(path)
        found = {}
        for place in range(graph.InitializersLength()):
            tensor = graph.Initializers(place)
            raw = np.zeros(0, np.uint8) if tensor.RawDataIsNone() else tensor.RawDataAsNumpy()
            shape = () if tensor.DimsIsNone() else tuple(tensor.DimsAsNumpy())
            found[tensor.Name().decode()] = raw.view(DTYPES[tensor.DataType()]).reshape(shape)
        return found
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise CanetError(f"its tensors cannot be read: {error}", where=path) from error
    except Exception as error:  # struct.error and the like
        raise CanetError(f"its tensors cannot be read: {error}", where=path) from error


def read_operators(path: Path) -> set[tuple[str, int, str]]:
    """Every operator of an .ort: domain, opset that introduced it, name."""
    found: set[tuple[str, int, str]] = set()
    graphs = [_graph(path)]
    while graphs:
        graph = graphs.pop()
        for place in range(graph.NodesLength()):
            node = graph.Nodes(place)
            found.add((node.Domain().decode() or "ai.onnx", node.SinceVersion(), node.OpType().decode()))
            for number in range(node.AttributesLength()):
                branch = node.Attributes(number).G()
                if branch is not None:
                    graphs.append(branch)
    return found
