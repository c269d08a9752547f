"""Converting the graphs once, with numbers that only mark their place.

litert-torch converts a stand-in: the same graphs over a small catalogue, every number random, so that each
constant of the written file can be told by its bytes. The model's own numbers are put in their places later.
So neither time nor memory of the conversion grows with the catalogue, nothing is folded into a weight by
accident, and two weights that happen to be equal are never taken for each other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import nn

from canet_export.graph import ROUTER_ENTRY
from canet_export.job import Job, Progress
from canet_export.tflite.graphs import Body, Front, TfliteRoute, tflite_graphs
from canet_export.tflite.joining import Part, joined
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet, quiet_stderr
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import fold_residuals, parameters
from canet_mobile.model.points import POINT_INPUT
from canet_mobile.model.router import Router
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import Supernet

INPUT = "seq"
STATE = "x"
OUTPUTS = {True: ("route",), False: ("scores", "ids")}
KEPT = ("router.table_scale",)  # a scalar inside the graph, not a constant to be put in its place
LARGEST_SHAPE = 8  # elements of a constant that can be a shape


@dataclass(frozen=True)
class Template:
    """A converted stand-in.

    Args:
        model: ``ModelT`` of the flatbuffer's object interface, a subgraph per entry.
        entries: the subgraphs' entries, in the model's order.
        places: per subgraph, which constant of the graph (its path) a tensor holds.
    """

    model: Any
    entries: tuple[str, ...]
    places: tuple[dict[int, str], ...]


def make_template(job: Job, progress: Progress) -> Template:
    """Convert the job's graphs over a stand-in catalogue, then give them the sizes of the job's own.

    Raises:
        CanetError: the converter fails, or dissolves a constant.
    """
    stand_in = _stand_in(job)
    rows, classes = len(stand_in.supernet.item_table), job.canet.supernet.config.items + 1
    graphs = tflite_graphs(job, stand_in)
    modules: dict[str, nn.Module] = {ROUTER_ENTRY: graphs[ROUTER_ENTRY]}
    owners: dict[str, nn.Module] = {ROUTER_ENTRY: graphs[ROUTER_ENTRY]}
    for route in job.routes:
        graph = graphs[route.entry]
        assert isinstance(graph, TfliteRoute)
        for name, module in ((_front(route), Front(graph)), (_body(route), Body(graph))):
            modules.setdefault(name, module.eval())
            owners.setdefault(name, graph)
    model = _convert(modules, job, progress)
    parts = {}
    for signature in model.signatureDefs:
        name, subgraph = signature.signatureKey.decode(), model.subgraphs[signature.subgraphIndex]
        _resize(model, subgraph, rows, classes)
        parts[name] = Part(
            subgraph,
            {each.name.decode(): each.tensorIndex for each in signature.inputs},
            tuple(each.tensorIndex for each in signature.outputs),
            _places(model, subgraph, owners[name]),
        )
    # A route first: where the first subgraph holds nothing to delegate, as the constant router of a plain
    # SASRec, LiteRT's Interpreter delegates nothing of the others either, and int8 takes 5-8 times as long.
    whole = {
        route.entry: joined(parts[_front(route)], parts[_body(route)], INPUT, STATE) for route in job.routes
    }
    whole[ROUTER_ENTRY] = parts[ROUTER_ENTRY]
    for entry, part in whole.items():
        _require_all(entry, graphs[entry], part)
    model.subgraphs = [part.subgraph for part in whole.values()]
    model.signatureDefs = [_signature(number, *each) for number, each in enumerate(whole.items())]
    return Template(model, tuple(whole), tuple(part.places for part in whole.values()))


def _front(route: Route) -> str:
    return f"front_e{route.embedding}_h{route.hidden}"


def _body(route: Route) -> str:
    return f"body_h{route.hidden}_d{route.depth}"


def _signature(number: int, entry: str, part: Part) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    names = OUTPUTS[entry == ROUTER_ENTRY]
    for name, index in zip(names, part.outputs, strict=True):
        part.subgraph.tensors[index].name = name
    return schema.SignatureDefT(
        signatureKey=entry,
        subgraphIndex=number,
        inputs=[schema.TensorMapT(name=name, tensorIndex=index) for name, index in part.inputs.items()],
        outputs=[
            schema.TensorMapT(name=name, tensorIndex=index)
            for name, index in zip(names, part.outputs, strict=True)
        ],
    )


@torch.no_grad()
def _stand_in(job: Job) -> Canet:
    config = job.canet.supernet.config
    space = job.canet.space
    # A prime above every other size of the graphs: only the catalogue has it.
    rows = 1 + max(4 * space.hidden[-1], space.embedding[-1], job.k + config.length, len(space), 256)
    while any(rows % n == 0 for n in range(2, int(rows**0.5) + 1)):
        rows += 1
    router = job.canet.router
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Canet(
            Supernet(replace(config, items=rows - 1)),
            None if router is None else Router(replace(router.config, items=rows - 1)),
        ).eval()
        numbers = parameters(job.reference)
        model = fold_residuals(model)
        for name, tensor in parameters(model).items():
            if name in KEPT:
                tensor.copy_(numbers[name])
            elif tensor.dim():
                tensor.normal_()
    return model


def _convert(modules: Mapping[str, nn.Module], job: Job, progress: Progress) -> Any:
    with quiet():
        import litert_torch
        from ai_edge_litert import schema_py_generated as schema

        length = job.canet.supernet.config.length
        converter: Any = litert_torch
        for name, module in modules.items():
            example = {INPUT: torch.zeros(1, length, dtype=torch.int32)}
            if name == ROUTER_ENTRY:
                example[POINT_INPUT] = torch.zeros(1, dtype=torch.int32)
            if isinstance(module, Body):
                example[STATE] = torch.zeros(1, length, module.whole.route.hidden)
            converter = converter.signature(name, module, sample_kwargs=example)
        progress(f"convert {len(modules)} graphs with litert-torch")
        try:
            with silent(), torch.no_grad():
                content = converter.convert().model_content()
        except Exception as error:  # whatever the converter's layers raise
            raise CanetError(
                f"litert-torch does not convert the graphs: {type(error).__name__}: {error}",
                fix="use a litert-torch in the range of pyproject.toml",
            ) from error
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


@contextmanager
def silent() -> Iterator[None]:
    """Hide the converter's progress (Python, on stdout) and its compiler's remarks (C++, on stderr)."""
    setting = "LITERT_TORCH_SHOW_PROGRESS"
    before = os.environ.get(setting)
    os.environ[setting] = "n"
    try:
        with quiet_stderr(), redirect_stdout(StringIO()):
            yield
    finally:
        if before is None:
            del os.environ[setting]
        else:
            os.environ[setting] = before


def buffer_bytes(model: Any, index: int) -> bytes:
    """The bytes of a buffer that is held inside the flatbuffer."""
    data = model.buffers[index].data
    return b"" if data is None else bytes(data)


def _places(model: Any, subgraph: Any, graph: nn.Module) -> dict[int, str]:
    marks = {
        hashlib.sha256(parameter.detach().numpy().tobytes()).digest(): path
        for path, parameter in graph.named_parameters()
    }
    found = {}
    for index, tensor in enumerate(subgraph.tensors):
        data = buffer_bytes(model, tensor.buffer)
        path = marks.get(hashlib.sha256(data).digest()) if data else None
        if path is not None:
            found[index] = path
    return found


def _require_all(entry: str, graph: nn.Module, part: Part) -> None:
    """Every constant of the graph, or an equal one, must have its place in the converted subgraph."""
    named = {path: tensor.detach().numpy().tobytes() for path, tensor in graph.named_parameters()}
    found = {named[path] for path in part.places.values()}
    lost = [path for path, data in named.items() if data not in found]
    if lost:
        raise CanetError(
            f"litert-torch dissolved {lost[0]} of {entry} ({len(lost)} constant(s)), so that its numbers "
            "could not be put in place",
            fix="use a litert-torch in the range of pyproject.toml",
        )


def _resize(model: Any, subgraph: Any, rows: int, classes: int) -> None:
    """Put the catalogue's size where the stand-in's was: in shapes, and in constants that are shapes."""
    from ai_edge_litert.schema_py_generated import TensorType

    def resized(sizes: Any) -> list[int]:
        return [classes if size == rows else int(size) for size in sizes]

    for tensor in subgraph.tensors:
        for field in ("shape", "shapeSignature"):
            if getattr(tensor, field) is not None:
                setattr(tensor, field, resized(getattr(tensor, field)))
        data = buffer_bytes(model, tensor.buffer)
        if tensor.type == TensorType.INT32 and 0 < len(data) <= 4 * LARGEST_SHAPE:
            sizes = np.array(resized(np.frombuffer(data, "<i4")), "<i4")
            model.buffers[tensor.buffer].data = sizes.view(np.uint8)
    for operator in subgraph.operators:
        options = operator.builtinOptions
        if getattr(options, "newShape", None) is not None:
            options.newShape = resized(options.newShape)
