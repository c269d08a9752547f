"""What every target is given, and what it gives back: the one interface between packaging and formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from canet_export.graph import Seen
from canet_export.sizes import Sizes
from canet_mobile.errors import CanetError
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import IntegerModel, dequantized, fold_residuals, halved
from canet_mobile.model.space import Route

Quantization = Literal["fp32", "fp16", "int8", "int4"]
QUANTIZATIONS: tuple[Quantization, ...] = ("fp32", "fp16", "int8", "int4")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A model to be written in one target's format.

    Args:
        canet: as trained; its router chooses among ``routes`` only.
        integers: of that model, for int8 and int4; None for fp32 and fp16.
        quantization: the preset.
        routes: the submodels, in ascending id.
        k: how many items a route returns, 1..V.
        seen: ``exclude`` removes the items of the input inside the graph.
        split: put panels and layers into files of their own, to be downloaded when a route needs them.
        minimum_os: the oldest system to serve where the format depends on it (``ios17``); None: the newest.
        plain: one route as an ordinary static graph, for servers.
        lengths: positions that each entry is written for, ascending, the model's L last; empty is L alone.
        item_labels: of the items 1..V, for formats that carry them inside the model; empty: not carried.

    Raises:
        CanetError: k is impossible.
    """

    canet: Canet
    integers: IntegerModel | None
    quantization: Quantization
    routes: tuple[Route, ...]
    k: int
    seen: Seen = "keep"
    split: bool = False
    minimum_os: str | None = None
    plain: bool = False
    lengths: tuple[int, ...] = ()
    item_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        items, longest = self.canet.supernet.config.items, self.canet.supernet.config.length
        object.__setattr__(self, "lengths", self.lengths or (longest,))
        if self.lengths[-1] != longest or list(self.lengths) != sorted({*self.lengths}):
            raise CanetError(f"lengths {list(self.lengths)} do not ascend to {longest}")
        if not 1 <= self.k <= items:
            raise CanetError(f"k is {self.k}, the model has {items} items", fix=f"--k {min(20, items)}")

    @property
    def has_router(self) -> bool:
        """Whether the file chooses among routes: not with a plain SASRec, nor in a plain graph."""
        return self.canet.router is not None and not self.plain

    @cached_property
    def reference(self) -> Canet:
        """PyTorch with the very numbers that the file holds: integers, halves or floats, lambda folded."""
        if self.integers is not None:
            return dequantized(self.canet, self.integers)
        return halved(self.canet) if self.quantization == "fp16" else fold_residuals(self.canet)


@dataclass(frozen=True)
class Delegation:
    """What of an entry runs in the accelerated backend: partitions, and operators (with calls) outside."""

    entry: str
    partitions: int
    undelegated: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """For manifests."""
        return {"entry": self.entry, "partitions": self.partitions, "undelegated": self.undelegated}


@dataclass(frozen=True)
class ExportResult:
    """A written model.

    Args:
        model_file: the file (or, for a format that is one, the folder) that an app opens.
        files: every file written, relative to the package, with forward slashes.
        exporter: versions of the tools that wrote it.
        sizes: where its bytes are.
        minimum_os: the oldest systems that run it.
        index_dtype: of route ids and item ids: ``int32`` or ``int64``.
        delegation: per entry, router first; empty where the runtime decides at load time.
        interface: how the entries are called, as in schemas/manifest.schema.json.
        runtime: what an app should know to run it well (opset, weight cache, ...).
        parts: files that only some entries need: name -> entries; empty where one file serves all.
    """

    model_file: str
    files: tuple[str, ...]
    exporter: dict[str, str]
    sizes: Sizes
    minimum_os: dict[str, str]
    index_dtype: Literal["int32", "int64"]
    delegation: tuple[Delegation, ...] = ()
    interface: dict[str, Any] = field(default_factory=lambda: {"style": "entries"})
    runtime: dict[str, str | int | bool] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
