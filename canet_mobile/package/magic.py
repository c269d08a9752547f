"""Is a model file what its name and its package's target say? The first bytes tell, before a runtime does."""

from __future__ import annotations

from pathlib import Path

from canet_mobile.package.manifest import AGAIN, Manifest, is_listed
from canet_mobile.package.refusal import Code, Refused

# What a target's model file is called, and what stands in it at which place.
SUFFIXES = {
    "executorch": (".pte",),
    "coreml": (".mlpackage",),
    "tflite": (".tflite",),
    "onnx": (".onnx", ".ort"),
}
MAGIC = {
    ".pte": (4, b"ET12"),  # a flatbuffer's file identifier
    ".tflite": (4, b"TFL3"),
    ".ort": (4, b"ORTM"),
    ".onnx": (0, b"\x08"),  # a protobuf: ir_version, its first field, as a varint
}
MLPACKAGE_TABLE = "Manifest.json"  # a .mlpackage is a folder with a table of its own


def check_model_files(directory: Path, source: Path, manifest: Manifest) -> None:
    """Every model file is of the runtime that ``target`` names; every listed one, of its own suffix.

    Raises:
        Refused: names the file, what it is and what it should be.
    """
    wanted = SUFFIXES[manifest.target]
    for name in manifest.model_files:
        if Path(name).suffix not in wanted:
            raise Refused(
                Code.RUNTIME_MISMATCH,
                f"is no file of the target {manifest.target}, whose model files end in {' or '.join(wanted)}",
                where=source / name,
                fix=AGAIN,
            )
    listed = [file.name for file in manifest.files]
    for name in dict.fromkeys((*manifest.model_files, *listed)):
        suffix = Path(name).suffix
        if suffix == ".mlpackage":
            holds = is_listed(f"{name}/{MLPACKAGE_TABLE}", listed)
        elif suffix in MAGIC and name in listed:
            holds = _begins(directory / name, *MAGIC[suffix])
        else:
            holds = name in listed  # a model file itself must be one file here
        if not holds:
            raise Refused(
                Code.RUNTIME_MISMATCH, f"is no {suffix} file inside", where=source / name, fix=AGAIN
            )


def _begins(path: Path, place: int, expected: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(place + len(expected))[place:] == expected
