"""At which lengths the entries of a package are written, and what they cost there.

A history of 8 items needs 8 positions. Each further length costs a graph for every entry (some 35 kB a
method), the time to load it, and in LiteRT, which prepares every signature when it starts, memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from canet_export.job import Job
from canet_mobile.errors import UsageError
from canet_mobile.model.costs import (
    route_costs,
    router_executed_mflops,
    router_paper_mflops,
)
from canet_mobile.model.points import BALANCED
from canet_mobile.package.lengths import MOST_SHORTER, held
from canet_mobile.replay.reference import routes_at
from canet_mobile.ties import best

STEP = 4  # of the lengths that are tried
# What a further length must save of the average user's executed MFLOPs to be worth its graphs.
LEAST_SAVED = 0.05

Values = NDArray[np.float64]


def parse_lengths(text: str, longest: int) -> tuple[int, ...] | None:
    """What ``--lengths`` says: ``auto`` is None, a list is itself with L at its end.

    Raises:
        UsageError: no number, not ascending, beyond L, or more shorter ones than a package holds.
    """
    if text == "auto":
        return None
    fix = f"--lengths auto, --lengths {longest}, or up to {MOST_SHORTER} shorter ones such as 8,16,{longest}"
    try:
        asked = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--lengths {text!r} is no list of numbers", fix=fix) from None
    if asked != sorted({*asked}) or asked[0] < 1:
        raise UsageError(f"--lengths {text}: they must ascend from 1 on", fix=fix)
    if asked[-1] > longest:
        raise UsageError(f"--lengths {text}: the model has {longest} positions", fix=fix)
    found = tuple(asked) if asked[-1] == longest else (*asked, longest)
    if len(found) - 1 > MOST_SHORTER:
        raise UsageError(f"--lengths {text}: a package holds {MOST_SHORTER} shorter ones at most", fix=fix)
    return found


def choose_lengths(job: Job, histories: NDArray[np.int32]) -> tuple[int, ...]:
    """The at most three shorter lengths that cost the validation users least, and L.

    Each must save :data:`LEAST_SAVED` of the average user's executed MFLOPs: first the best single one, then
    the best two, and so on while that holds.

    Args:
        job: with its routes; the balanced point tells who takes which.
        histories: of validation users, [n, L] int32, left-padded.
    """
    config, space = job.canet.supernet.config, job.canet.space
    longest = config.length
    only = np.full(len(histories), space.id_of(job.routes[0]))
    taken = routes_at(job.reference, histories, BALANCED) if job.has_router else only
    items = np.array([max(1, held(history)) for history in histories])
    cost_at = {n: _cost(job, n) for n in (*range(STEP, longest, STEP), longest)}

    def average(lengths: Sequence[int]) -> float:
        position = np.searchsorted(np.array([*lengths, longest]), items)
        at = np.array([cost_at[n] for n in (*lengths, longest)])  # [lengths, routes]
        return float(at[position, taken].mean())

    chosen: tuple[int, ...] = ()
    tried = [n for n in cost_at if n != longest]
    for count in range(1, MOST_SHORTER + 1):
        sets = list(itertools.combinations(tried, count))
        if not sets:
            break
        found = best(sets, lambda lengths: -average(lengths), lambda lengths: -sum(lengths))
        if average(found) > (1 - LEAST_SAVED) * average(chosen):
            break
        chosen = found
    return (*chosen, longest)


def _cost(job: Job, length: int) -> Values:
    """Executed MFLOPs of router and route at a length, of every route of the space, [routes]."""
    config, space = job.canet.supernet.config, job.canet.space
    rows = route_costs(config.items, length, space, in_projection=config.in_projection)
    router = router_executed_mflops(length, len(space)) if job.has_router else 0.0
    return np.array([row["executed_mflops"] + router for row in rows])


def route_at_lengths(job: Job, route_id: int) -> list[dict[str, float]]:
    """What a route costs at each shorter length, for the manifest."""
    config, route = job.canet.supernet.config, job.canet.space.routes[route_id]
    rows = []
    for length in job.lengths[:-1]:
        row = route_costs(config.items, length, [route], in_projection=config.in_projection)[0]
        rows.append({"length": length} | {key: row[key] for key in ("paper_mflops", "executed_mflops")})
    return rows


def router_at_lengths(job: Job) -> list[dict[str, float]]:
    """What the router costs at each shorter length, for the manifest."""
    routes = len(job.canet.space)
    return [
        {
            "length": length,
            "paper_mflops": router_paper_mflops(length, routes) if job.has_router else 0.0,
            "executed_mflops": router_executed_mflops(length, routes) if job.has_router else 0.0,
        }
        for length in job.lengths[:-1]
    ]
