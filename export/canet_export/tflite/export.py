"""TFLite / LiteRT: ``canet.tflite`` with a signature per route and one for the router."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from canet_export.job import ExportResult, Job, Progress
from canet_export.tflite.graphs import tflite_graphs
from canet_export.tflite.impose import impose
from canet_export.tflite.metadata import ITEMS_FILE, append_labels, metadata_buffer
from canet_export.tflite.sizing import file_sizes
from canet_export.tflite.support import read_metadata, support_status
from canet_export.tflite.template import make_template
from canet_export.tflite.writer import serialize, share_tables
from canet_mobile.errors import CanetError
from canet_mobile.machine import quiet, quiet_stderr

MODEL_FILE = "canet.tflite"
MINIMUM_OS = {"android": "API 23"}
WEIGHT_CACHE = "CompiledModel: set xnnpack_weight_cache_path to a file named by the model's SHA-256"
ROOT = "root."  # of the keys of ExportResult.runtime that hold the entries' roots


def export(job: Job, out_dir: Path, progress: Progress = lambda _: None) -> ExportResult:
    """Write ``canet.tflite``: signatures ``router`` (seq int32 [1, L], point int32 [1] -> route int32 [1])
    and one per route (seq -> scores float32 [1, k], ids int32 [1, k]).

    Args:
        job: what to write.
        out_dir: an existing folder.
        progress: told what is being done.

    Raises:
        CanetError: the toolkit is missing, or its converter does not keep the graphs' constants apart.
    """
    require_toolkit()
    template = make_template(job, progress)
    progress("put the numbers in place")
    graphs = tflite_graphs(job)
    model, buffers = impose(template, job, graphs)
    share_tables(model)
    progress("write the file")
    content, roots = serialize(model, buffers, metadata_buffer(job, template.entries))
    path = out_dir / MODEL_FILE
    path.write_bytes(content)
    if job.item_labels:
        append_labels(path, job.item_labels)
    checked = check_metadata(path, job, template.entries)
    return ExportResult(
        model_file=MODEL_FILE,
        files=(MODEL_FILE,),
        exporter={
            name: version(name).partition("+")[0] for name in ("litert-torch", "ai-edge-litert", "torch")
        },
        sizes=file_sizes(job, graphs, path.stat().st_size),
        minimum_os=MINIMUM_OS,
        index_dtype="int32",
        runtime={
            "metadata": checked,
            "weight_cache": WEIGHT_CACHE,
            **{f"{ROOT}{entry}": position for entry, position in roots.items()},
        },
    )


def check_metadata(path: Path, job: Job, entries: tuple[str, ...]) -> str:
    """Let tflite-support read the metadata back, where its environment is installed.

    Returns:
        What was done, for the manifest.

    Raises:
        CanetError: it does not find the entries, or not the items.
    """
    found = support_status().version
    if found is None:
        return "not read back: tflite-support is not installed"
    read = read_metadata(path)
    names = [subgraph.get("name") for subgraph in read["metadata"].get("subgraph_metadata", ())]
    labels = read["associated_files"].get(ITEMS_FILE, "").splitlines()
    if names != list(entries) or len(labels) != len(job.item_labels) + bool(job.item_labels):
        raise CanetError(
            f"tflite-support {found} reads {len(names)} entries and {len(labels)} item labels, "
            f"not {len(entries)} and {len(job.item_labels)}",
            where=path,
        )
    return f"read back by tflite-support {found}"


def require_toolkit() -> None:
    """Raises: CanetError: litert-torch or ai-edge-litert is missing; names the extra to install."""
    try:
        with quiet(), quiet_stderr():
            import ai_edge_litert.schema_py_generated  # noqa: F401
            import flatbuffers  # noqa: F401
            import litert_torch  # noqa: F401
    except ImportError as error:
        raise CanetError(
            f"exporting to tflite needs litert-torch ({error})",
            fix="pip install 'canet-mobile[tflite]'",
        ) from error
