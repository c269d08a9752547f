"""Seconds and peak memory of ranking 20,000 users over 12,000 items.

Run: python benchmarks/evaluation_speed.py [--users 20000] [--items 12000] [--length 50] [--all]
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import torch

from canet_mobile.data.split import HeldOut
from canet_mobile.evaluate.scoring import rank_all_routes, rank_targets
from canet_mobile.model.space import Route
from canet_mobile.model.supernet import Supernet, SupernetConfig


def synthetic_queries(users: int, items: int, length: int) -> HeldOut:
    """Random histories of 5 to 2 × ``length`` items, the last of each held out."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 2 * length, users)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat = generator.integers(1, items + 1, offsets[-1]).astype(np.int32)
    return HeldOut(flat, np.arange(users), offsets[:-1], offsets[1:] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--all", action="store_true", help="every route of the default space too")
    options = parser.parse_args()
    torch.manual_seed(0)
    queries = synthetic_queries(options.users, options.items, options.length)
    supernet = Supernet(SupernetConfig(options.items, options.length)).eval()
    space = supernet.config.space

    def timed(name: str, route_ids: np.ndarray | None) -> None:
        start = time.perf_counter()
        if route_ids is None:
            rank_all_routes(supernet, queries)
        else:
            rank_targets(supernet, queries, route_ids)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = round(time.perf_counter() - start, 2)
        result = {"what": name, "users": len(queries), "items": options.items, "length": options.length}
        print(
            json.dumps(
                result | {"threads": torch.get_num_threads(), "seconds": seconds, "peak_rss_mib": round(peak)}
            )
        )

    for route in (space.smallest, Route(128, 64, 4), space.largest):
        timed(route.entry, np.full(len(queries), space.id_of(route)))
    timed("a random route per user", np.random.default_rng(1).integers(0, len(space), len(queries)))
    if options.all:
        timed("all routes", None)


if __name__ == "__main__":
    main()
