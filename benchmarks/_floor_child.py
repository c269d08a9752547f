"""A package in a released runtime: answers calls that come as lines of JSON.

    python _floor_child.py API MODEL

Started by runtime_floors.py; it imports nothing of this project, which need not be installed there. A line
``{"entry": ..., "inputs": {name: list}}`` is answered by ``{"outputs": {name: list}}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = dict[str, Any]
Run = Callable[[str, Inputs, "list[str]"], dict[str, Any]]


def interpreter(path: str) -> Run:
    """TFLite's Interpreter over the whole file, wherever it comes from."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            from tensorflow.lite.python.interpreter import Interpreter
    model = Interpreter(model_path=path, num_threads=1)
    return lambda entry, inputs, names: model.get_signature_runner(entry)(**inputs)


def compiled_model(path: str) -> Run:
    """LiteRT's CompiledModel over the whole file."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter

    model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.CPU)
    reader = Interpreter(model_path=path)  # tells shapes, which early versions of CompiledModel do not

    def details(entry: str) -> dict[str, Any]:
        return reader.get_signature_runner(entry).get_output_details()

    def run(entry: str, inputs: Inputs, names: list[str]) -> dict[str, Any]:
        signature = model.get_signature_list()[entry]
        index = model.get_signature_index(entry)
        given, found = model.create_input_buffers(index), model.create_output_buffers(index)
        for name, buffer in zip(signature["inputs"], given, strict=True):
            buffer.write(inputs[name].reshape(-1))
        model.run_by_index(index, given, found)
        shapes = details(entry)
        return {
            name: buffer.read(int(np.prod(shapes[name]["shape"])), shapes[name]["dtype"])
            for name, buffer in zip(signature["outputs"], found, strict=True)
        }

    return run


def onnxruntime(path: str) -> Run:
    """ONNX Runtime, nothing of it reported."""
    import onnxruntime as ort

    getattr(ort, "disable_telemetry_events", lambda: None)()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda entry, inputs, names: dict(zip(names, session.run(names, inputs), strict=True))


def executorch(path: str) -> Run:
    """ExecuTorch's Python runtime."""
    import executorch.kernels.quantized  # noqa: F401
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)

    def run(entry: str, inputs: Inputs, names: list[str]) -> dict[str, Any]:
        found = program.load_method(entry).execute([torch.from_numpy(value) for value in inputs.values()])
        return dict(zip(names, (output.numpy() for output in found), strict=True))

    return run


APIS = {
    "Interpreter": interpreter,
    "CompiledModel": compiled_model,
    "InferenceSession": onnxruntime,
    "Program": executorch,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a runtime prints is no answer
    run = APIS[sys.argv[1]](sys.argv[2])
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        inputs = {name: np.array(value, np.int32) for name, value in asked["inputs"].items()}
        try:
            found = run(asked["entry"], inputs, asked["names"])
            answer: dict[str, Any] = {
                "outputs": {name: np.asarray(found[name]).tolist() for name in asked["names"]}
            }
        except Exception as error:  # whatever the runtime raises is what there is to tell
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
