"""The oldest runtime that was measured right with a package of each target, for the manifest.

Measured by benchmarks/runtime_floors.py with golden rows; tests/test_runtime_floors.py holds this to its
record. What an older one does differs: TFLite up to 2.17 takes an int8 file and answers wrongly, without a
word.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """A runtime and the oldest version of it to use; None: not measured, ``minimum_os`` decides."""

    name: str
    minimum: str | None

    def to_json(self) -> dict[str, str | None]:
        """For manifests."""
        return {"name": self.name, "minimum": self.minimum}


FLOORS = {
    "executorch": Floor("ExecuTorch", "1.4.1"),
    "coreml": Floor("Core ML", None),
    "tflite": Floor("LiteRT", "1.0.1"),
    "onnx": Floor("ONNX Runtime", "1.20.1"),
}
