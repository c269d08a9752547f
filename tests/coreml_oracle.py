"""A second opinion on a .mlpackage: coremltools loads it back and folds every operation by its numpy rules.

It shares no code with canet_mobile.replay.mil: the file is read by coremltools' loader and its blob reader,
and every operation is evaluated by the ``value_inference`` that coremltools itself uses to fold constants.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canet_mobile.machine import quiet


def loaded(path: Path) -> Any:
    """The program of a .mlpackage, as coremltools reads it."""
    with quiet():
        import coremltools
        from coremltools.converters.mil.frontend.milproto import load

        spec = coremltools.utils.load_spec(str(path))
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        return load.load(spec, spec.specificationVersion, str(weights))


def oracle(program: Any, function: str, given: dict[str, NDArray[np.int32]]) -> dict[str, NDArray[Any]]:
    """Outputs of one function for its inputs by name, by constant folding alone.

    Raises:
        AssertionError: an operation cannot be folded.
    """
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function

    source = program.functions[function]
    with quiet(), Function({}, opset_version=source.opset_version):
        values: dict[str, Any] = {name: mb.const(val=given[name], name=name) for name in source.inputs}
        for number, op in enumerate(source.operations):
            if op.op_type == "const":
                values[op.outputs[0].name] = mb.const(val=op.outputs[0].val, name=f"c{number}")
                continue
            if op.op_type.startswith("constexpr_"):
                weight = op.materialized_val_inference()
                values[op.outputs[0].name] = mb.const(val=weight, name=f"w{number}")
                continue
            given = {
                key: [values[v.name] for v in var] if isinstance(var, (list, tuple)) else values[var.name]
                for key, var in op.inputs.items()
                if var is not None
            }
            made = getattr(mb, op.op_type)(**given, name=f"o{number}")
            made = list(made) if isinstance(made, (list, tuple)) else [made]
            for before, after in zip(op.outputs, made, strict=True):
                assert after.val is not None, f"{op.op_type} {before.name} is not folded"
                values[before.name] = after
        return {var.name: np.asarray(values[var.name].val) for var in source.outputs}
