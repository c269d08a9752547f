"""Seconds and peak memory of ranking 20,000 users over 12,000 items.

Run: python benchmarks/evaluation_speed.py [--users 20000] [--items 12000] [--length 50] [--all]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from multiprocessing import get_context

import numpy as np
import torch

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.scoring import rank_all_routes, rank_targets
from canet_mobile.model.supernet import Supernet, SupernetConfig


def synthetic_queries(users: int, items: int, length: int) -> HeldOut:
    """Random histories of 5 to 2 × ``length`` items, the last of each held out."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 2 * length, users)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat = generator.integers(1, items + 1, offsets[-1]).astype(np.int32)
    return HeldOut(flat, np.arange(users), offsets[:-1], offsets[1:] - 1)


def measure(what: str, users: int, items: int, length: int) -> dict[str, str | int | float]:
    """Rank with a route by name, ``mixed`` (a random route per user) or ``all`` routes."""
    torch.manual_seed(0)
    queries = synthetic_queries(users, items, length)
    supernet = Supernet(SupernetConfig(items, length)).eval()
    space = supernet.config.space
    before, wall, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    if what == "all":
        rank_all_routes(supernet, queries)
    elif what == "mixed":
        rank_targets(supernet, queries, np.random.default_rng(1).integers(0, len(space), users))
    else:
        rank_targets(supernet, queries, np.full(users, space.id_of(space.named(what))))
    return {
        "what": what,
        "users": users,
        "items": items,
        "length": length,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_rss_mib": _peak_mib(),
        "rss_before_mib": before,
    }


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure each case in a process of its own, so that peaks do not add up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--all", action="store_true", help="every route of the default space too")
    options = parser.parse_args()
    cases = ["e64_h64_d2", "e128_h64_d4", "e128_h128_d8", "mixed", *(["all"] if options.all else [])]
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for what in cases:
            result = pool.apply(measure, (what, options.users, options.items, options.length))
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
