"""The checks of a package that runs: golden rows, every route, the router, the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from canet_mobile.data.split import HeldOut
from canet_mobile.errors import CanetError
from canet_mobile.evaluate.metrics import ndcg, standard_error
from canet_mobile.model.canet import Canet
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.lengths import cut_to
from canet_mobile.package.lists import Check, Failure, compare_lists
from canet_mobile.package.package import Package
from canet_mobile.replay.device import ROUTER, Device, RuntimeFailure, run_entry, run_router
from canet_mobile.replay.reference import overlap, ranks_in_lists, route_scores, routed_lists

TOP = 10
TASK_LIMIT = 0.01  # relative
MIN_OVERLAP = 0.95
MIN_ROUTER_AGREEMENT = 0.995


@dataclass(frozen=True)
class Limits:
    """What a quantization may differ by.

    Args:
        level: the name of the level.
        absolute: largest score error.
        relative: the same, as a share of the largest score (by size) of the expected list; the larger counts.
        router: least share of users that both route alike.
        overlap: least mean overlap of the top 10; None: the score check alone decides.
    """

    level: str
    absolute: float
    relative: float
    router: float
    overlap: float | None

    def tolerance(self, expected: NDArray[np.floating]) -> float:
        """The largest absolute error allowed for one list."""
        return max(self.absolute, self.relative * float(np.abs(expected).max()))


LIMITS = {
    "fp32": Limits("structural", 1e-4, 0.0, 1.0, None),
    "fp16": Limits("half", 1e-4, 0.01, MIN_ROUTER_AGREEMENT, MIN_OVERLAP),
    "int4": Limits("numeric", 1e-4, 0.05, MIN_ROUTER_AGREEMENT, MIN_OVERLAP),
    "int8": Limits("numeric", 1e-4, 0.05, MIN_ROUTER_AGREEMENT, MIN_OVERLAP),
}


def check_golden(device: Device, package: Package, limits: Limits) -> Check:
    """Every golden row: the router's answer at every operating point, and scores and ids of its entry."""
    failures = []
    worst = 0.0
    for row in package.golden:
        case = f"golden.jsonl line {row.line}"
        try:
            routes = [run_router(device, row.input, point)[0] for point in range(len(POINTS))]
            scores, ids, _ = run_entry(device, row.entry, row.input, package.k)
        except RuntimeFailure as error:
            failures.append(Failure("golden", row.entry, case, "call", "an answer", error.what))
            continue
        failures += [
            Failure("golden", ROUTER, case, f"route at {name}", str(expected), str(found))
            for name, expected, found in zip(POINTS, row.routes, routes, strict=True)
            if found != expected
        ]
        tolerance = limits.tolerance(row.scores)
        found = compare_lists(row.scores, row.ids, scores, ids, tolerance=tolerance, items=package.items)
        worst = max(worst, found.error / tolerance)
        failures += [
            Failure("golden", row.entry, case, d.tensor, d.expected, d.found, d.error / tolerance)
            for d in found.differences
        ]
    detail = f"{len(package.golden)} rows; largest score error {worst:.3g} of the tolerance"
    return Check("golden", not failures, len(package.golden), _finite(worst), 1.0, detail, tuple(failures))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _cases(
    queries: HeldOut, lengths: Sequence[int], offset: int, count: int
) -> list[tuple[str, NDArray[np.int32]]]:
    """Histories for one route, as (name, [L] int32): a single item, the longest of all, and others; and as
    many of the newest items of the longest as each shorter length holds."""
    length = lengths[-1]
    sizes = np.minimum(queries.ends - queries.starts, length)
    rows = [offset % len(queries), int(sizes.argmax())]
    rows += [(offset + 1 + n * max(1, len(queries) // count)) % len(queries) for n in range(count)]
    cases = []
    for number, row in enumerate(rows[:count]):
        seq = queries.inputs(np.array([row]), length)[0]
        name = f"user {queries.users[row]}"
        if number == 0:
            seq, name = (
                np.concatenate([np.zeros(length - 1, np.int32), seq[-1:]]),
                f"{name}, newest item alone",
            )
        cases.append((name, seq))
    longest = queries.inputs(np.array([rows[1]]), length)[0]
    for shorter in lengths[:-1]:
        cases.append((f"user {queries.users[rows[1]]}, newest {shorter} items", cut_to(longest, shorter)))
    return cases


def check_routes(
    device: Device, package: Package, *, same: Canet, queries: HeldOut, limits: Limits, rows_per_route: int
) -> list[Check]:
    """Every exported route on a few histories, against PyTorch with the same numbers."""
    name = limits.level
    failures: list[Failure] = []
    overlaps = []
    worst, cases = 0.0, 0
    for number, route in enumerate(package.routes):
        for case, seq in _cases(queries, package.lengths, number * rows_per_route, rows_per_route):
            cases += 1
            full = route_scores(same, seq[None], route.route, package.manifest.seen)[0]
            best = full.topk(package.k)
            expected, expected_ids = best.values.numpy(), best.indices.numpy()
            try:
                scores, ids, _ = run_entry(device, route.entry, seq, package.k)
            except RuntimeFailure as error:
                failures.append(Failure(name, route.entry, case, "call", "an answer", error.what))
                continue
            tolerance = limits.tolerance(expected)
            found = compare_lists(expected, expected_ids, scores, ids, tolerance=tolerance, full=full.numpy())
            worst = max(
                worst, found.error if limits.relative == 0 else found.error / float(np.abs(expected).max())
            )
            overlaps.append(overlap(ids[None], expected_ids[None], TOP)[0])
            failures += [
                Failure(name, route.entry, case, d.tensor, d.expected, d.found, d.error / tolerance)
                for d in found.differences
            ]
    kind, limit = ("relative", limits.relative) if limits.relative else ("absolute", limits.absolute)
    detail = f"{len(package.routes)} routes, {cases} histories; largest {kind} score error {worst:.2e}"
    checks = [Check(name, not failures, cases, _finite(worst), limit, detail, tuple(failures))]
    if limits.overlap is not None and overlaps:
        mean = float(np.mean(overlaps))
        passed = mean >= limits.overlap
        failure = Failure(
            "overlap", None, None, "ids", f"a mean top-{TOP} overlap >= {limits.overlap}", f"{mean:.3f}"
        )
        checks.append(
            Check(
                "overlap",
                passed,
                cases,
                mean,
                limits.overlap,
                f"mean top-{TOP} overlap {mean:.3f}, at least {limits.overlap}",
                () if passed else (failure,),
            )
        )
    return checks


def check_users(
    device: Device, package: Package, *, reference: Canet, same: Canet, queries: HeldOut, limits: Limits
) -> list[Check]:
    """Held-out users through router and submodel: agreement of the router at every operating point, and the
    task at the balanced one."""
    seqs = queries.inputs(slice(None), package.length)
    routes = np.zeros((len(POINTS), len(seqs)), np.int64)
    ids, failed = [], []
    for row, seq in enumerate(seqs):
        try:
            for point in range(len(POINTS)):
                routes[point, row] = package.route(run_router(device, seq, point)[0]).id
            entry = package.route(int(routes[BALANCED, row])).entry
            ids.append(run_entry(device, entry, seq, package.k)[1])
        except CanetError as error:
            failed.append(
                Failure("users", ROUTER, f"user {queries.users[row]}", "call", "an answer", error.what)
            )
    if failed:
        return [Check("users", False, len(seqs), None, None, "the package does not run", tuple(failed))]
    return [
        _check_router(routes, seqs, same, queries, limits),
        check_task(np.stack(ids), seqs, reference, queries, package),
    ]


def _check_router(
    routes: NDArray[np.int64], seqs: NDArray[np.int32], same: Canet, queries: HeldOut, limits: Limits
) -> Check:
    """Routes [operating points, n] beside PyTorch's; the point that agrees least decides."""
    failures: list[Failure] = []
    agreements = []
    for point, name in enumerate(POINTS):
        expected, differ = _misrouted(routes[point], seqs, same, point, limits)
        agreements.append(1 - len(differ) / len(seqs))
        failures += [
            Failure("router", ROUTER, f"user {queries.users[row]}", f"route at {name}",
                    str(expected[row]), str(routes[point, row]))
            for row in (differ if agreements[-1] < limits.router else ())
        ]  # fmt: skip
    worst = int(np.argmin(agreements))
    alike = round(agreements[worst] * len(seqs))
    at = "every operating point"
    if max(agreements) > agreements[worst]:
        at = f"{POINTS[worst]}, the worst operating point"
    detail = f"{alike} of {len(seqs)} users routed alike at {at}"
    return Check(
        "router", not failures, routes.size, agreements[worst], limits.router, detail, tuple(failures)
    )


@torch.inference_mode()
def _misrouted(
    routes: NDArray[np.int64], seqs: NDArray[np.int32], same: Canet, point: int, limits: Limits
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """PyTorch's routes [n] at one operating point, and the rows where ``routes`` differ from them."""
    inputs = torch.from_numpy(seqs).long()
    expected = same.route(inputs, point).numpy()
    differ = np.flatnonzero(routes != expected)
    if same.router is not None and limits.level == "structural" and len(differ):
        logits = (same.router(inputs[differ], same.supernet.item_table) + same.router.points[point]).numpy()
        each = np.arange(len(differ))
        gap = np.abs(logits[each, routes[differ]] - logits[each, expected[differ]])
        differ = differ[gap > limits.absolute]  # ties may go either way
    return expected, differ


def check_task(
    ids: NDArray[np.int64], seqs: NDArray[np.int32], reference: Canet, queries: HeldOut, package: Package
) -> Check:
    """NDCG@10 of the package's lists within 1 % of PyTorch fp32 on the same users.

    The difference is measured in pairs. One beyond the limit that is within two standard errors decides
    nothing: the check then says how many users would.
    """
    expected = routed_lists(reference, seqs, package.k, package.manifest.seen)
    ours = ndcg(ranks_in_lists(ids, queries.targets), TOP)
    theirs = ndcg(ranks_in_lists(expected.ids, queries.targets), TOP)
    n, base = len(ours), float(theirs.mean())
    said = f"NDCG@{TOP} {ours.mean():.4f}, PyTorch fp32 {base:.4f}, n = {n}"
    if base == 0:
        return Check("task", None, n, None, TASK_LIMIT, f"{said}: too few users, none was hit")
    relative = float(ours.mean() - theirs.mean()) / base
    noise = 2 * standard_error(ours - theirs) / base
    said += f", difference {relative:+.2%} ± {noise:.2%}"
    if abs(relative) <= TASK_LIMIT:
        return Check("task", True, n, relative, TASK_LIMIT, said)
    if abs(relative) <= noise:
        needed = round(n * (noise / TASK_LIMIT) ** 2)
        return Check(
            "task", None, n, relative, TASK_LIMIT, f"{said}: n is too small, about {needed} would decide"
        )
    failure = Failure(
        "task",
        None,
        f"{n} users",
        f"NDCG@{TOP}",
        f"{base:.4f} ± {TASK_LIMIT:.0%}",
        f"{ours.mean():.4f} ({relative:+.2%})",
        abs(relative) / TASK_LIMIT,
    )
    return Check("task", False, n, relative, TASK_LIMIT, said, (failure,))
