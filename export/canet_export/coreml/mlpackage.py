"""From functions to a .mlpackage on disk: the same model makes the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

AUTHOR = "com.apple.CoreML"
MANIFEST = "Manifest.json"
MODEL = f"Data/{AUTHOR}/model.mlmodel"
WEIGHTS = f"Data/{AUTHOR}/weights/weight.bin"


def write_mlpackage(
    path: Path,
    functions: Mapping[str, Any],
    kit: SimpleNamespace,
    *,
    specification: int,
    metadata: Mapping[str, str],
    description: str,
) -> None:
    """Write functions as one .mlpackage.

    Args:
        path: the package to make; nothing stands there.
        functions: by name, the default one first. A single one named ``main`` makes a model without named
            functions, as iOS 17 and older need it.
        kit: coremltools.
        specification: version of the model format (9: iOS 18, 8: iOS 17).
        metadata: for ``user_defined_metadata``.
        description: for people who open the package in Xcode.
    """
    program = kit.Program()
    for name, function in functions.items():
        program.add_function(name, function)
    program.default_function_name = next(iter(functions))
    model = kit.Model.Model(specificationVersion=specification)
    with tempfile.TemporaryDirectory() as folder:
        exporter = kit.Exporter(prog=program, weights_dir=folder, specification_version=specification)
        model.mlProgram.CopyFrom(exporter.export())
        del exporter  # its writer holds the file open
        (path / MODEL).parent.mkdir(parents=True)
        if (Path(folder) / "weight.bin").exists():  # a router without a choice has no weights
            (path / WEIGHTS).parent.mkdir()
            shutil.move(Path(folder) / "weight.bin", path / WEIGHTS)
    _describe(model.description, functions, kit, list(functions) != ["main"])
    model.description.metadata.shortDescription = description
    model.description.metadata.userDefined.update(metadata)
    # Maps have no order of their own in protobuf.
    (path / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    (path / MANIFEST).write_text(_manifest(path), encoding="utf-8")
    for name in files_of(path):
        (path / name).chmod(0o644)


def files_of(path: Path) -> list[str]:
    """The files of a .mlpackage, relative to it."""
    return [name for name in (MANIFEST, MODEL, WEIGHTS) if (path / name).is_file()]


def _describe(description: Any, functions: Mapping[str, Any], kit: SimpleNamespace, named: bool) -> None:
    """Inputs and outputs of every function, as the app sees them."""
    if named:
        description.defaultFunctionName = next(iter(functions))
    for name, function in functions.items():
        place = description.functions.add(name=name) if named else description
        for key, variable in function.inputs.items():
            _feature(place.input, key, variable, kit)
        for variable in function.outputs:
            _feature(place.output, variable.name, variable, kit)


def _feature(features: Any, name: str, variable: Any, kit: SimpleNamespace) -> None:
    array = kit.features.ArrayFeatureType
    kinds = {kit.types.fp32: array.FLOAT32, kit.types.int32: array.INT32}
    feature = features.add(name=name)
    feature.type.multiArrayType.shape.extend(variable.shape)
    feature.type.multiArrayType.dataType = kinds[variable.dtype]


def _manifest(path: Path) -> str:
    """Manifest.json with identifiers made from the content, where coremltools takes random ones."""
    entries = {}
    for name, place, description in (
        ("model.mlmodel", MODEL, "CoreML Model Specification"),
        ("weights", str(Path(WEIGHTS).parent.as_posix()), "CoreML Model Weights"),
    ):
        file = path / (MODEL if place == MODEL else WEIGHTS)
        if not file.is_file():
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"canet-mobile/{name}/{digest}")).upper()
        entries[identifier] = {
            "author": AUTHOR,
            "description": description,
            "name": name,
            "path": place.removeprefix("Data/"),
        }
    root = next(key for key, entry in entries.items() if entry["name"] == "model.mlmodel")
    document = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    return json.dumps(document, indent=4, sort_keys=True) + "\n"
