"""Are a checkpoint's numbers, to the last bit, in the written files?

The initializers of the .onnx and the .ort are read by structure and brought back to PyTorch's layout by the
rules below, which do not ask the writer; then they are compared with the job's numbers bit for bit. What is
not learnt (nodes, sizes, masks) is compared with the graph written anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from canet_export.job import Job
from canet_export.onnx.export import MODEL_FILE, ORT_FILE, ORT_PRESETS
from canet_export.onnx.model import build_graph
from canet_export.onnx.ort_format import read_initializers
from canet_mobile.errors import CanetError
from canet_mobile.model.integers import is_quantized, parameters
from canet_mobile.package.lists import Check, Failure

Array = NDArray[Any]
LEARNT = ("supernet.", "router.")
ROWS = ("out_bias", "ffn2_bias", "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")
SCALE = " scale"


def check_stored(directory: Path, job: Job) -> Check:
    """Read every learnt number back from ``canet.onnx`` and ``canet.ort`` and compare it.

    Args:
        directory: holds the files.
        job: what was exported.
    """
    failures: list[Failure] = []
    tensors = 0
    for name in (MODEL_FILE, ORT_FILE):
        path = directory / name
        if name == ORT_FILE and job.quantization not in ORT_PRESETS:
            continue
        try:
            found = _read_onnx(path) if name == MODEL_FILE else read_initializers(path)
            restored, broken = restore(found, job)
        except CanetError as error:
            failures.append(Failure("weights", None, None, name, "a readable file", error.what))
            continue
        failures += [Failure("weights", None, None, f"{name}: {t}", "its numbers", why) for t, why in broken]
        tensors += len(restored)
        failures += [
            Failure("weights", None, None, f"{name}: {tensor}", *difference)
            for tensor, difference in _differences(restored, job)
        ]
        failures += _differences_of_the_rest(path, found, job)
    detail = f"{tensors} tensors read back from the model files, {len(failures)} differ"
    value = 1 - len({failure.tensor for failure in failures}) / max(tensors, 1)
    return Check("weights", not failures, tensors, value, 1.0, detail, tuple(failures))


def _read_onnx(path: Path) -> dict[str, Array]:
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(path)
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # protobuf raises what it likes
        raise CanetError(f"its tensors cannot be read: {error}", where=path) from error


def restore(found: dict[str, Array], job: Job) -> tuple[dict[str, Array], list[tuple[str, str]]]:
    """Every learnt tensor of a file in PyTorch's layout, and what cannot be brought there.

    Returns:
        Arrays by parameter name (``supernet.in_weight``, with integers as int8; its scale as
        ``supernet.in_weight scale``), and (initializer, reason).
    """
    restored: dict[str, Array] = {}
    broken = []
    for name, array in found.items():
        if not name.startswith(LEARNT) or ".panel" in name:
            continue
        try:
            if _four_bits(name, job):
                restored.update(_restored_four_bits(name, array, found))
                continue
            restored.update(_restored(name, array, found))
        except ValueError as error:
            broken.append((name, str(error)))
    for table in {name.partition(".panel")[0] for name in found if ".panel" in name}:
        if _four_bits(table, job):
            whole, scale = found[f"{table}.panel0"], found[f"{table}.panel0.scale"]
            restored[table] = _nibbles(whole.reshape(len(whole), -1))
            restored[table + SCALE] = scale.astype(np.float32)
            continue
        cuts = sorted((int(name.partition(".panel")[2]), name) for name in found if f"{table}.panel" in name)
        restored[table] = np.concatenate([_signed(found[name]).T for _, name in cuts], axis=1)
    return restored, broken


def _four_bits(name: str, job: Job) -> bool:
    """Whether an initializer belongs to a tensor of four bits: its integers or its scales."""
    base = name.partition(".panel")[0].removesuffix(".scale").removesuffix(".q").removesuffix(".kv")
    found = None if job.integers is None else job.integers.tensors.get(base)
    return found is not None and found.bits == 4


def _restored_four_bits(name: str, array: Array, found: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Packed in PyTorch's layout, with a last axis of 1; scales as float16."""
    base = name.removesuffix(".scale")
    whole = array
    if base.endswith(".kv"):
        return  # with its queries
    if base.endswith(".q"):
        whole = np.concatenate([array, _sister(name, found)])
    parameter = base.removesuffix(".q")
    if base == name:
        yield parameter, _nibbles(whole[..., 0])
    else:
        yield parameter + SCALE, whole[..., 0].astype(np.float32)


def _nibbles(pairs: Array) -> Array:
    """uint8 [..., n / 2], the first of two in the low half -> int8 [..., n] in [-7, 7]."""
    both = np.stack([pairs & 15, pairs >> 4], -1).astype(np.int8) - 8
    return both.reshape(*pairs.shape[:-1], -1).astype(np.int8)


def _restored(name: str, array: Array, found: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    prefix, _, last = name.rpartition(".")
    if ".qkv_weight" in name and last in ("qkv_weight", "q"):
        # [in, part, head, channel of the head] -> [part, out, in]; channel c is c // 4 of head c mod 4
        size = array.shape[0]
        whole = array.reshape(size, -1, 4, size // 4)
        if last == "q":
            whole = np.concatenate([whole, _sister(name, found).reshape(size, 2, 4, -1)], axis=1)
        yield name.removesuffix(".q"), _signed(whole).transpose(1, 3, 2, 0).reshape(3, size, size)
    elif last == "kv":
        return
    elif last == "scale":
        yield from _restored_scale(prefix, array, found)
    elif last == "out_weight":
        size = array.shape[-1]
        yield name, _signed(array).reshape(4, -1, size).transpose(2, 1, 0).reshape(size, -1)
    elif last == "qkv_bias":
        yield name, array.reshape(3, 4, -1).transpose(0, 2, 1).reshape(3, -1)
    elif last == "heads":
        rows = array.reshape(-1, 4, array.shape[-1]).transpose(0, 2, 1).reshape(-1, 4 * array.shape[-1])
        yield f"{prefix}.qkv_bias", rows[:3]
        if len(rows) > 3:
            yield f"{prefix}.qkv_weight{SCALE}", rows[3:]
    elif last == "inner":
        yield from zip((f"{prefix}.ffn1_bias", f"{prefix}.ffn1_weight{SCALE}"), array, strict=False)
    elif last == "vectors":
        scales = [f"{prefix}.{matrix}_weight{SCALE}" for matrix in ("out", "ffn2")]
        yield from zip([*(f"{prefix}.{row}" for row in ROWS), *scales], array, strict=False)
    elif last.endswith("_weight") and not last.startswith("norm"):
        yield name, _signed(array).T
    else:
        yield name, _signed(array)


def _restored_scale(prefix: str, array: Array, found: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    base = prefix.removesuffix(".q")
    if base.endswith(".qkv_weight"):
        rows = 3 if base == prefix else 1
        both = array.reshape(rows, 4, -1)
        if rows == 1:
            both = np.concatenate([both, _sister(f"{prefix}.scale", found).reshape(2, 4, -1)])
        yield f"{base}{SCALE}", both.transpose(0, 2, 1).reshape(3, -1)
    elif not prefix.endswith(".kv"):
        yield f"{prefix}{SCALE}", array.reshape(-1)


def _sister(name: str, found: dict[str, Array]) -> Array:
    """Keys and values, stored beside the queries ``name``."""
    sister = name.replace("qkv_weight.q", "qkv_weight.kv")
    if sister not in found:
        raise ValueError(f"{sister} is missing")
    return found[sister]


def _signed(array: Array) -> Array:
    """Stored uint8 as the int8 that it is."""
    return (array.astype(np.int16) - 128).astype(np.int8) if array.dtype == np.uint8 else array


def expected_tensors(job: Job) -> dict[str, Array]:
    """The job's numbers by parameter name, whole, in the types they are stored in."""
    expected: dict[str, Array] = {}
    integers = {} if job.integers is None else job.integers.tensors
    for name, parameter in parameters(job.reference).items():
        tensor = parameter.detach()
        if name in integers:
            expected[name] = integers[name].values.numpy()
            scale = integers[name].scale
            expected[name + SCALE] = (scale if integers[name].bits == 4 else scale[..., 0]).numpy()
        else:
            is_half = job.quantization == "fp16" and is_quantized(name, tensor)
            expected[name] = (tensor.to(torch.float16) if is_half else tensor).numpy()
    return expected


def _needed(job: Job) -> Iterator[str]:
    """Names that the file must hold whatever its layout is."""
    config, depth = job.canet.supernet.config, max(route.depth for route in job.routes)
    router = job.canet.router if len(job.routes) > 1 else None
    for name in parameters(job.reference):
        kind, *rest = name.split(".")
        if "residual" in name or (kind == "router" and router is None):
            continue  # folded, or no router
        if rest[0] == "blocks" and int(rest[1]) >= depth:
            continue
        if kind == "supernet" and rest[0].startswith("in_") and not config.in_projection:
            continue
        if name == "router.table_scale" and float(job.reference.router.table_scale) == 1.0:  # type: ignore[union-attr]
            continue
        yield name
        if job.integers is not None and name in job.integers.tensors:
            yield name + SCALE


def _differences(restored: dict[str, Array], job: Job) -> Iterator[tuple[str, tuple[str, str]]]:
    expected = expected_tensors(job)
    for name in _needed(job):
        if name not in restored:
            yield name, ("its numbers", "no such tensor")
    for name, array in restored.items():
        if name not in expected:
            yield name, ("no such tensor", "one")
            continue
        whole = expected[name]
        if (
            array.ndim != whole.ndim
            or array.dtype != whole.dtype
            or np.any(array.shape > np.array(whole.shape))
        ):
            kinds = (f"{a.dtype} {list(a.shape)}" for a in (whole, array))
            yield name, tuple(kinds)  # type: ignore[misc]
            continue
        piece = np.ascontiguousarray(whole[tuple(slice(size) for size in array.shape)])
        differ = np.flatnonzero(_bits(piece) != _bits(array))
        if len(differ):
            first = int(differ[0])
            place = [int(i) for i in np.unravel_index(first, piece.shape)] if piece.ndim else []
            yield (
                name,
                (
                    f"{piece.reshape(-1)[first]} at {place}",
                    f"{array.reshape(-1)[first]}; {len(differ)} of {piece.size} differ",
                ),
            )


def _bits(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[flat.itemsize])


def _differences_of_the_rest(path: Path, found: dict[str, Array], job: Job) -> Iterator[Failure]:
    """Nodes, sizes and masks, against the graph written anew."""
    built = build_graph(job)
    expected = built.stored()
    for name in sorted(expected.keys() ^ found.keys()):
        missing = ("this constant", "none") if name in expected else ("no such constant", "one")
        yield Failure("weights", None, None, f"{path.name}: {name}", *missing)
    for name in sorted(expected.keys() & found.keys()):
        if name.startswith(LEARNT):
            if expected[name].shape != found[name].shape:
                shapes = str(expected[name].shape), str(found[name].shape)
                yield Failure("weights", None, None, f"{path.name}: {name}", *shapes)
        elif not np.array_equal(expected[name], found[name]):
            values = str(expected[name].tolist())[:60], str(found[name].tolist())[:60]
            yield Failure("weights", None, None, f"{path.name}: {name}", *values)
    if path.name == MODEL_FILE:
        import onnx

        model = onnx.load(path)
        del model.graph.initializer[:]
        if model.SerializeToString(deterministic=True) != built.model(with_numbers=False).SerializeToString(
            deterministic=True
        ):
            yield Failure("weights", None, None, f"{path.name}: graph", "the exporter's nodes", "others")
