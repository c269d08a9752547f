"""The parts of coremltools in use, imported when they are used."""

from __future__ import annotations

from types import SimpleNamespace

from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet


def toolkit() -> SimpleNamespace:
    """coremltools' builder of ML Programs and its writer.

    Raises:
        CanetError: coremltools is not installed; names the extra.
    """
    try:
        with quiet():
            import coremltools
            from coremltools.converters.mil import Builder
            from coremltools.converters.mil.backend.mil.load import BlobWriter, MILProtoExporter
            from coremltools.converters.mil.mil import Function, Program, types
            from coremltools.proto import FeatureTypes_pb2, Model_pb2
    except ImportError as error:
        raise CanetError(
            f"exporting to coreml needs coremltools ({error})", fix="pip install 'canet-mobile[coreml]'"
        ) from error
    if BlobWriter is None:  # coremltools imports, with a warning, where its compiled parts do not
        raise CanetError(
            "exporting to coreml needs coremltools with its compiled parts (libmilstoragepython), which its "
            "wheels for Linux and macOS hold",
            fix="pip install --force-reinstall 'canet-mobile[coreml]'",
        )
    return SimpleNamespace(
        version=coremltools.__version__,
        mb=Builder,
        Exporter=MILProtoExporter,
        Function=Function,
        Program=Program,
        types=types,
        target=coremltools.target,
        features=FeatureTypes_pb2,
        Model=Model_pb2,
    )
