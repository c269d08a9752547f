"""The compared methods by their names in the paper.

A method is the keys of :class:`TrainConfig` it pins; everything else (length, epochs, learning rate, ...) is
the same for all methods of a comparison. Sizes follow from the routing space, so that a changed space changes
the baselines with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from canet_mobile.compare.presets import CLOSED
from canet_mobile.errors import UsageError, unknown_name
from canet_mobile.model.costs import sasrec_paper_mflops
from canet_mobile.run.config import TrainConfig, apply
from canet_mobile.run.presets import variants
from canet_mobile.ties import best

SAME = "sasrec-same"  # its size is known only when CANet's runs are done
PAPER = {
    "model": "canet",
    "recipe": "paper",
    "router_table": "own",
    "tied": "false",
    "residual": 0.0,
    "beta2": 0.999,
}
GROUPS = {
    "table": "the methods of the paper's Table III, and the default recipe",
    "losses": "CANet without its uniform loss, its guide loss, and both (Fig. 4)",
    "spaces": "routing over depth alone and over embedding size alone (Fig. 5)",
    "granularity": "a coarser and a finer routing space (Fig. 7)",
    "recipe": "the default recipe with one of its parts exchanged",
}
# Recipes of a SASRec that is not plain; each ends the name of its methods.
_SASREC = {
    "averaged": "a plain SASRec of which the average of its weights is kept",
    "taught": "half taught by its own average, as CANet is",
}
_SIZED = re.compile(rf"sasrec-(\d+)x(\d+)(?:-({'|'.join(_SASREC)}))?")


@dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Args:
        name: how --models and the records call it.
        title: how tables print it.
        group: a key of :data:`GROUPS`.
        pins: configuration keys that make it this method.
        about: what it is, one sentence.
    """

    name: str
    title: str
    group: str
    pins: Mapping[str, Any]
    about: str


def method_config(method: Method, base: TrainConfig, seed: int) -> TrainConfig:
    """The configuration of one run.

    Raises:
        UsageError: this version does not know the method's model, or its sizes do not go together.
    """
    return apply(base, {**method.pins, "seed": seed}, where=method.name)


def known_methods(base: TrainConfig, items: int) -> dict[str, Method]:
    """Every named method, in the order of the tables.

    Args:
        base: the shared configuration; its routing space gives the sizes, its budget SASRec-small's.
        items: number of items, on which costs depend.
    """
    widest, deepest = base.hidden[-1], base.depth[-1]
    table = [
        Method(
            "fpmc",
            "FPMC",
            "table",
            {"model": "fpmc", "tied": "false"},
            "factorised first-order Markov chain (BPR)",
        ),
        Method("gru4rec", "GRU4Rec", "table", {"model": "gru4rec"}, "two GRU layers"),
        Method("nextitnet", "NextItNet", "table", {"model": "nextitnet"}, "dilated causal convolutions"),
        _sasrec("sasrec-full", "SASRec-full", widest, deepest, "as large as the largest submodel"),
        _small(base, items),
        Method(
            SAME, "SASRec-same", "table", {}, "the plain SASRec nearest in cost to what CANet turns out to be"
        ),
        Method("skiprec", "SkipRec", "table", {"model": "skiprec"}, "skips layers of SASRec-full per user"),
        Method("autodim", "AutoDim", "table", {"model": "autodim"}, "one embedding size per item"),
        Method(
            "canet-paper", "CANet, paper's recipe", "table", PAPER, "Eq. 7-9, supernet and router jointly"
        ),
        Method("canet", "CANet, default recipe", "table", {"model": "canet"}, "the recipe `train` uses"),
    ]
    groups = (table, _losses(), _spaces(base), _granularity(base), _recipe())
    return {method.name: method for group in groups for method in group}


def select(names: Sequence[str], base: TrainConfig, items: int) -> list[Method]:
    """The methods of --models: names, groups, ``all``, ``sasrec-WIDTHxDEPTH[-RECIPE]``; in table order.

    Raises:
        UsageError: a name does not exist; or sasrec-same is asked for without canet.
    """
    known = known_methods(base, items)
    chosen: dict[str, Method] = {}
    for name in names:
        sized = _SIZED.fullmatch(name)
        if name == "all":
            chosen |= known
        elif name in GROUPS:
            chosen |= {key: method for key, method in known.items() if method.group == name}
        elif sized:
            chosen[name] = _sized(name, int(sized[1]), int(sized[2]), sized[3])
        elif name in known:
            chosen[name] = known[name]
        else:
            raise unknown_name("method", name, [*known, *GROUPS, "all", "sasrec-64x2"], where="--models")
    if SAME in chosen and "canet" not in chosen:
        raise UsageError(f"{SAME} takes its cost from canet", where="--models", fix="add canet to --models")
    order = {name: number for number, name in enumerate(known)}
    return sorted(chosen.values(), key=lambda method: order.get(method.name, len(order)))


def _sasrec(name: str, title: str, width: int, depth: int, about: str) -> Method:
    pins = {"model": "sasrec", "embedding": [width], "hidden": [width], "depth": [depth]}
    return Method(name, title, "table", pins, f"{depth} blocks of width {width}, {about}")


def is_plain_sasrec(name: str) -> bool:
    """Whether a method is a SASRec as everybody trains it: what CANet is measured against."""
    return name.startswith("sasrec") and not name.endswith(tuple(_SASREC))


def _sized(name: str, width: int, depth: int, recipe: str | None) -> Method:
    title = f"SASRec {width} × {depth}"
    if recipe is None:
        return _sasrec(name, title, width, depth, "a plain SASRec")
    plain = _sasrec(name, f"{title}, {recipe}", width, depth, _SASREC[recipe])
    return replace(plain, pins={**plain.pins, "recipe": recipe})


def _small(base: TrainConfig, items: int) -> Method:
    """The plain SASRec whose cost lies nearest to what the budget lets CANet spend."""
    wanted = base.budget * sasrec_paper_mflops(items, base.length, base.hidden[-1], base.depth[-1])
    width, depth = _nearest_size(base, items, wanted)
    title = f"SASRec-small ({width} × {depth})"
    return _sasrec("sasrec-small", title, width, depth, "about as dear as CANet may become")


def same_cost(base: TrainConfig, items: int, wanted: float) -> Method:
    """``sasrec-same`` once CANet's cost is known, in paper MFLOPs."""
    width, depth = _nearest_size(base, items, wanted)
    return _sasrec(SAME, f"SASRec-same ({width} × {depth})", width, depth, "about as dear as CANet is")


def _nearest_size(base: TrainConfig, items: int, wanted: float) -> tuple[int, int]:
    """Width and depth, within the routing space's widths and up to its depth."""
    sizes = [(width, depth) for width in base.hidden for depth in range(1, base.depth[-1] + 1)]
    return best(sizes, lambda size: -abs(sasrec_paper_mflops(items, base.length, *size) - wanted))


def _losses() -> list[Method]:
    """Fig. 4: the minus sign takes a loss away."""
    without = {"canet-u": "the uniform loss", "canet-g": "the guide loss", "canet-ug": "either loss"}
    return [
        Method(
            name,
            name.replace("canet", "CANet"),
            "losses",
            {"model": "canet", **variants()[name]},
            f"paper's recipe without {what}",
        )
        for name, what in without.items()
    ]


def _spaces(base: TrainConfig) -> list[Method]:
    wide, deep = [base.hidden[-1]], [base.depth[-1]]
    depth = {"embedding": [base.embedding[-1]], "hidden": wide, "depth": range(1, deep[0] + 1)}
    embedding = {"embedding": base.embedding, "hidden": wide, "depth": deep}
    return [
        Method("canet-depth", "CANet, depth only", "spaces", _space(depth), "every depth at full width"),
        Method(
            "canet-embedding", "CANet, embedding only", "spaces", _space(embedding), "full width and depth"
        ),
    ]


def _granularity(base: TrainConfig) -> list[Method]:
    lists = {"embedding": base.embedding, "hidden": base.hidden, "depth": base.depth}
    coarse = {key: sorted({values[0], values[-1]}) for key, values in lists.items()}
    fine = {**lists, "embedding": _halved(base.embedding), "hidden": _halved(base.hidden)}
    return [
        Method(
            "canet-coarse", "CANet, coarse space", "granularity", _space(coarse), "smallest and largest only"
        ),
        Method(
            "canet-fine", "CANet, fine space", "granularity", _space(fine), "widths halfway between as well"
        ),
    ]


def _recipe() -> list[Method]:
    """The first two differ from ``canet`` in the router alone, so they take its supernet."""
    return [
        Method(
            "canet-entropy",
            "CANet, the unsure first",
            "recipe",
            {"model": "canet", "router_label": "entropy"},
            "users of whom the small route is unsure are escalated, whatever validation says",
        ),
        Method(
            "canet-own",
            "CANet, own router table",
            "recipe",
            {"model": "canet", "router_table": "own"},
            "the router has its own item table, as in the paper",
        ),
        Method(
            "canet-polished",
            "CANet, polished",
            "recipe",
            {"model": "canet", "polish": 3},
            "three epochs more for the two routes that serve, kept where validation users gain",
        ),
        Method(
            "canet-selftaught",
            "CANet, taught by its average alone",
            "recipe",
            {"model": "canet", "cooccurrence": 0.0},
            "neighbours in the training histories have no say in what the average teaches",
        ),
        Method(
            "canet-unaveraged",
            "CANet, no average",
            "recipe",
            {"model": "canet", "average": 0.0},
            "the largest route of each step teaches, alone, and the last weights are kept",
        ),
        Method(
            "canet-fixed",
            "CANet, fixed windows",
            "recipe",
            {"model": "canet", "moving": False},
            "long histories are cut into the same windows in every epoch",
        ),
        Method(
            "canet-closed",
            "CANet, blocks that start closed",
            "recipe",
            {"model": "canet", **CLOSED},
            "every block starts with a tenth of its weight, and Adam has its usual memory",
        ),
        Method(
            "canet-untied",
            "CANet, untied",
            "recipe",
            {"model": "canet", "tied": "false", "residual": 0.0},
            "a classifier of its own, and blocks that begin with no influence",
        ),
        Method(
            "canet-rows",
            "CANet, rows",
            "recipe",
            {"model": "canet", "recipe": "rows"},
            "every row of a batch trains one route",
        ),
    ]


def _space(lists: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return PAPER | {key: list(values) for key, values in lists.items()}


def _halved(widths: Sequence[int]) -> list[int]:
    """The widths and those halfway between neighbours, as multiples of 4: {64, 96, 128} gains 80 and 112."""
    halfway = [(low + high) // 8 * 4 for low, high in pairwise(widths)]
    return sorted({*widths, *halfway})
