"""What quantization costs on held-out users, and which tensors the router needs in higher precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canet_export.checks import MIN_ROUTER_AGREEMENT
from canet_export.graph import Seen
from canet_mobile.data.split import HeldOut
from canet_mobile.errors import CanetError
from canet_mobile.evaluate.metrics import ndcg
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import ROUTER_TABLE, TABLE, Bits, IntegerModel, dequantized, quantize_model
from canet_mobile.model.points import POINTS
from canet_mobile.replay.reference import Lists, ranks_in_lists, routed_lists, routes_at

TOP = 10
MAX_DROP = 0.01  # relative NDCG@10 that int4 may lose

# What is tried in turn until the router agrees with fp32: nothing kept back, then the tables it reads.
HIGHER: dict[Bits, tuple[frozenset[str], ...]] = {
    8: (frozenset(), frozenset({ROUTER_TABLE})),
    4: (frozenset(), frozenset({TABLE}), frozenset({TABLE, ROUTER_TABLE})),
}


@dataclass(frozen=True)
class Choice:
    """Integers, what was kept in higher precision, and what they cost on held-out users.

    Args:
        integers: of the model.
        higher: tensors in higher precision than the preset's.
        agreement: share of users routed as in fp32, at the operating point where it is least.
        ndcg_fp32, ndcg_integers: NDCG@10 of PyTorch with either's numbers, routed at the balanced point.
    """

    integers: IntegerModel
    higher: frozenset[str]
    agreement: float
    ndcg_fp32: float
    ndcg_integers: float

    @property
    def drop(self) -> float:
        """Relative loss of NDCG@10; 0 where fp32 has nothing to lose."""
        return 1 - self.ndcg_integers / self.ndcg_fp32 if self.ndcg_fp32 > 0 else 0.0


def choose_integers(canet: Canet, bits: Bits, queries: HeldOut, seen: Seen) -> Choice:
    """Quantize, keeping as little as possible in higher precision while the router agrees with fp32.

    Args:
        canet: as trained, its router restricted to the exported routes.
        bits: 8 or 4.
        queries: held-out users (validation).
        seen: the package's policy.

    Returns:
        The first choice whose agreement is at least .995, else the one that agrees best.
    """
    names = {"supernet.item_table"} | ({ROUTER_TABLE} if _owns_table(canet) else set())
    seqs = queries.inputs(slice(None), canet.supernet.config.length)
    exact = routed_lists(canet, seqs, _list_length(canet), seen)
    wanted = _routes(canet, seqs)
    tried: list[Choice] = []
    for higher in dict.fromkeys(frozenset(kept & names) for kept in HIGHER[bits]):
        integers = quantize_model(canet, bits, higher=higher)
        same = dequantized(canet, integers)
        ours = routed_lists(same, seqs, _list_length(canet), seen)
        agreement = float((_routes(same, seqs) == wanted).mean(1).min())
        tried.append(Choice(integers, higher, agreement, _ndcg(exact, queries), _ndcg(ours, queries)))
        if agreement >= MIN_ROUTER_AGREEMENT:
            return tried[-1]
    return max(tried, key=lambda choice: choice.agreement)


def require_accuracy(choice: Choice, quantization: str, users: int) -> None:
    """Refuse integers that cost more than the bound.

    Raises:
        CanetError: NDCG@10 falls by more than 1 %, or the router agrees with fp32 on less than 99.5 %.
    """
    problems = []
    if choice.drop > MAX_DROP:
        problems.append(
            f"NDCG@{TOP} falls by {choice.drop:.1%} ({choice.ndcg_fp32:.4f} to {choice.ndcg_integers:.4f}), "
            f"the bound is {MAX_DROP:.0%}"
        )
    if choice.agreement < MIN_ROUTER_AGREEMENT:
        problems.append(
            f"the router agrees with fp32 on {choice.agreement:.1%}, the bound is {MIN_ROUTER_AGREEMENT:.1%}"
        )
    if problems:
        raise CanetError(
            f"{quantization} costs too much on {users:,} validation users: {'; '.join(problems)}",
            fix="--quantize int8, or --allow-accuracy-drop to export it all the same",
        )


def _owns_table(canet: Canet) -> bool:
    return canet.router is not None and canet.router.config.table == "own"


def _list_length(canet: Canet) -> int:
    return min(TOP, canet.supernet.config.items)


def _routes(canet: Canet, seqs: NDArray[np.int32]) -> NDArray[np.int64]:
    """Route ids [operating points, n]."""
    return np.stack([routes_at(canet, seqs, point) for point in range(len(POINTS))])


def _ndcg(lists: Lists, queries: HeldOut) -> float:
    return mean_ndcg(lists.ids, queries)


def mean_ndcg(ids: NDArray[np.int64], queries: HeldOut) -> float:
    """NDCG@10 of lists [n, k], averaged over the users."""
    return float(ndcg(ranks_in_lists(ids, queries.targets), TOP).mean())
