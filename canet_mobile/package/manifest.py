"""manifest.json as a typed object, read once, at the door: nothing behind it looks into the document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from canet_mobile.files import AGAIN as MAKE_AGAIN
from canet_mobile.files import MANIFEST
from canet_mobile.package.lengths import entry_at
from canet_mobile.package.names import clash, odd_name
from canet_mobile.package.refusal import Code, Refused
from canet_mobile.schema import problem, typed
from canet_mobile.strict_json import JsonProblem, parse_json

SCHEMA_VERSION = 5
GOLDEN = "golden.jsonl"
ITEM_MAP = "items.csv"
AGAIN = "export or copy the package again"

Target = Literal["executorch", "coreml", "tflite", "onnx"]
Quantization = Literal["fp32", "fp16", "int8", "int4"]
Seen = Literal["keep", "exclude"]

# Bounds that are checked before a byte is read, so that no phone runs out of memory for a file that was
# swapped. A manifest of 36 routes has 18 kB; golden rows of 36 routes at four lengths with lists of 1,000
# have 8 MB; two million items with titles of a hundred letters have 250 MB.
MAX_BYTES = {MANIFEST: 4 << 20, GOLDEN: 64 << 20, ITEM_MAP: 512 << 20}


@dataclass(frozen=True)
class ListedFile:
    """A file beside the manifest: its name in the package, its size and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Tensor:
    """Shape and type of an output."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Outputs:
    """What the router entry and every route entry return."""

    route: Tensor
    scores: Tensor
    ids: Tensor


@dataclass(frozen=True)
class ShorterRow:
    """What an entry costs at a shorter length, in MFLOPs."""

    length: int
    paper_mflops: float
    executed_mflops: float


@dataclass(frozen=True)
class RouterRow:
    """The router: whose item table it reads (None: nothing is routed), and its costs in MFLOPs."""

    entry: str
    table: str | None
    paper_mflops: float
    executed_mflops: float
    shorter: tuple[ShorterRow, ...]


@dataclass(frozen=True)
class RouteRow:
    """An exported route as the manifest lists it, with its costs in MFLOPs."""

    id: int
    entry: str
    embedding: int
    hidden: int
    depth: int
    paper_mflops: float
    executed_mflops: float
    shorter: tuple[ShorterRow, ...]


@dataclass(frozen=True)
class PointRow:
    """What an operating point costs (mean MFLOPs, router included) and gives; None: not measured."""

    id: int
    name: str
    paper_mflops: float | None
    executed_mflops: float | None
    shares: Mapping[str, float] | None
    router_agreement: float | None
    pytorch_fp32: float | None
    pytorch_same_integers: float | None
    package_host: float | None


@dataclass(frozen=True)
class Interface:
    """How an entry is called; see docs/package.md. The names are None where there is no such input."""

    style: Literal["entries", "one_graph", "files"]
    point_input: str | None = None
    route_input: str | None = None
    plain: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A file that only these entries need."""

    name: str
    entries: tuple[str, ...]


@dataclass(frozen=True)
class IntegersRow:
    """The one integer supernet: its hash, number of tensors, and those kept in higher precision."""

    sha256: str
    tensors: int
    higher_precision: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model file by part; each constant is counted once, for the first part that holds it.

    ``full_model_alone_bytes`` and ``separate_files_bytes`` are computed from the constants, with the bytes of
    the graphs shared out by their number of blocks; nothing is exported to find them. None: not computed.
    """

    total_bytes: int
    item_table_bytes: int
    classifier_bytes: int
    layers_bytes: int
    router_bytes: int
    graph_bytes: int
    full_model_alone_bytes: int | None
    separate_files_bytes: int | None


@dataclass(frozen=True)
class Delegation:
    """Partitions of an entry in the accelerated backend, and operators (with their number) outside it."""

    entry: str
    partitions: int
    undelegated: Mapping[str, int]


@dataclass(frozen=True)
class Accuracy:
    """NDCG@10 on held-out users, routed at the default point; None: not measured."""

    pytorch_fp32: float | None
    pytorch_same_integers: float | None
    package_host: float | None
    router_agreement: float | None = None
    split: str | None = None
    seen: str | None = None
    users: int | None = None


@dataclass(frozen=True)
class DatasetName:
    """The data set a package was trained on, by name and content hash."""

    name: str
    content_hash: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that fits schemas/manifest.schema.json; docs/package.md explains every field.

    ``document`` is what was read, for who prints or hashes it; fields are read by their names above.
    """

    name: str
    created_by: str
    target: Target
    quantization: Quantization
    model_file: str
    exporter: Mapping[str, str]
    minimum_os: Mapping[str, str]
    files: tuple[ListedFile, ...]
    input_shape: tuple[int, ...]
    outputs: Outputs
    items: int
    length: int
    lengths: tuple[int, ...]
    k: int
    seen: Seen
    space: Mapping[str, tuple[int, ...]]
    router: RouterRow
    routes: tuple[RouteRow, ...]
    operating_points: tuple[PointRow, ...]
    default_point: str | None
    interface: Interface
    runtime: Mapping[str, str | int | bool | None]
    parts: tuple[Part, ...]
    integers: IntegersRow | None
    sizes: Sizes
    delegation: tuple[Delegation, ...]
    item_map_sha256: str
    dataset: DatasetName
    checkpoint_sha256: str
    accuracy: Accuracy | None
    document: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def entries(self) -> tuple[str, ...]:
        """Every entry of the model file: the router and the routes, each at every length."""
        names = [self.router.entry, *(route.entry for route in self.routes)]
        return tuple(entry_at(name, length, self.length) for length in self.lengths for name in names)

    @property
    def model_files(self) -> tuple[str, ...]:
        """What a runtime opens: the model file, or (style ``files``) the file of every entry."""
        return tuple(dict.fromkeys((self.model_file, *self.interface.files.values())))


def read_manifest(path: Path, *, shown: Path) -> Manifest:
    """Read manifest.json of a package that lies in a folder.

    Args:
        path: the file.
        shown: how errors name it.

    Raises:
        Refused: see :func:`parse_manifest`.
    """
    try:
        require_bound(MANIFEST, path.stat().st_size, shown)
        data = path.read_bytes()
    except OSError as error:
        raise Refused(
            Code.MANIFEST_UNREADABLE, f"cannot be read ({error.strerror})", where=shown, fix=AGAIN
        ) from error
    return parse_manifest(data, shown)


def parse_manifest(data: bytes, where: Path) -> Manifest:
    """A manifest from its bytes, valid by its schema and with names that every system can hold.

    Raises:
        Refused: it is no JSON that every parser reads alike, is no package's, is of another schema version,
            does not fit its schema, lists unsafe names, or leaves out a file that a package needs.
    """
    try:
        document = parse_json(data)
    except JsonProblem as error:
        raise Refused(Code.MANIFEST_UNREADABLE, str(error), where=where, fix=AGAIN) from error
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind != "package":
        raise Refused(
            Code.NOT_A_PACKAGE,
            f"is the manifest of a {kind!r}, not of a package",
            where=where,
            fix="give the folder or zip of a package",
        )
    version = document.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        older = version < SCHEMA_VERSION
        raise Refused(
            Code.SCHEMA_OLDER if older else Code.SCHEMA_NEWER,
            f"schema_version is {version}, this version of canet-mobile reads {SCHEMA_VERSION}",
            where=where,
            fix="export it again with this version" if older else "open it with a newer canet-mobile",
        )
    if found := problem(document, "manifest"):
        raise Refused(Code.MANIFEST_INVALID, found, where=where, fix=MAKE_AGAIN)
    manifest = _typed(document)
    _require_names(manifest, where)
    return manifest


def require_bound(name: str, size: int, where: object) -> None:
    """Refuse a document that is larger than any of its kind, before it is read.

    Raises:
        Refused: it has more bytes than :data:`MAX_BYTES` allows.
    """
    if size > MAX_BYTES.get(name, size):
        raise Refused(
            Code.DOCUMENT_TOO_LARGE,
            f"has {size:,} bytes, at most {MAX_BYTES[name]:,} are read",
            where=where,
            fix=AGAIN,
        )


def _require_names(manifest: Manifest, where: Path) -> None:
    """``files`` names each file once on every system, and all that are needed, at sizes that are read."""
    listed = [file.name for file in manifest.files]
    bad = next(filter(None, map(odd_name, listed)), None) or clash([MANIFEST, *listed])
    if bad:
        raise Refused(Code.NAMES_UNSAFE, f"files: {bad}", where=where, fix=AGAIN)
    used = [part.name for part in manifest.parts]
    for name in (*manifest.model_files, ITEM_MAP, GOLDEN, *used):
        if not is_listed(name, listed):
            raise Refused(
                Code.FILE_UNLISTED,
                f"files does not list {name!r}, so it cannot be verified",
                where=where,
                fix=AGAIN,
            )
    for file in manifest.files:
        require_bound(file.name, file.bytes, where.parent / file.name)


def is_listed(name: str, listed: Iterable[str]) -> bool:
    """Whether a file, or a file below a folder of this name, is listed."""
    return any(other == name or other.startswith(f"{name}/") for other in listed)


def _typed(document: dict[str, Any]) -> Manifest:
    outputs, integers = document["outputs"], document["integers"]
    as_they_are = (
        "name", "created_by", "target", "quantization", "model_file", "exporter", "minimum_os", "items",
        "length", "k", "seen", "default_point", "runtime", "item_map_sha256",
    )  # fmt: skip
    return Manifest(
        **{name: document[name] for name in as_they_are},
        files=tuple(typed(ListedFile, row) for row in document["files"]),
        input_shape=tuple(document["input"]["shape"]),
        outputs=Outputs(
            _tensor(outputs["router"]["route"]),
            _tensor(outputs["route"]["scores"]),
            _tensor(outputs["route"]["ids"]),
        ),
        space={name: tuple(sizes) for name, sizes in document["space"].items()},
        lengths=tuple(document["lengths"]),
        router=typed(RouterRow, _with_shorter(document["router"])),
        routes=tuple(typed(RouteRow, _with_shorter(row)) for row in document["routes"]),
        operating_points=tuple(typed(PointRow, row) for row in document["operating_points"]),
        interface=typed(Interface, document["interface"]),
        parts=tuple(Part(row["name"], tuple(row["entries"])) for row in document["parts"]),
        integers=None
        if integers is None
        else IntegersRow(integers["sha256"], integers["tensors"], tuple(integers["higher_precision"])),
        sizes=typed(Sizes, document["sizes"]),
        delegation=tuple(typed(Delegation, row) for row in document["delegation"]),
        dataset=typed(DatasetName, document["dataset"]),
        checkpoint_sha256=document["checkpoint"]["sha256"],
        accuracy=None if document["accuracy"] is None else typed(Accuracy, document["accuracy"]),
        document=document,
    )


def _with_shorter(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "shorter": tuple(typed(ShorterRow, shorter) for shorter in row["shorter"])}


def _tensor(row: dict[str, Any]) -> Tensor:
    return Tensor(tuple(row["shape"]), row["dtype"])
