"""What CANet's router buys, over every test user and the seeds of a data set together.

    python benchmarks/routing_over_seeds.py --data-root DIR --work DIR s3rec-beauty amazon-beauty
    python benchmarks/routing_over_seeds.py --data-root DIR --work DIR s3rec-beauty --budget 0.2

Takes the finished runs that compare_methods.py left in its work folder. There a model is judged on 25,000
test users at most, with each of its routes; here on all of them, with the routes that its router takes and
the largest one. Seeds share their users, but not what a user gains by being routed: gains are averaged over
seeds first, and the standard error is that of these means over users. With --budget every supernet gets a
router for that budget, as `canet-mobile route RUN --budget B` fits it.

Writes benchmarks/results/routing/<data set>[.budget<B>].json; `python benchmarks/results_table.py` reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from compare_methods import RESULTS, add_folders, dataset

from canet_mobile.accelerator import choose_device
from canet_mobile.compare.statistics import over_seeds
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.errors import CanetError
from canet_mobile.evaluate.metrics import Values, ndcg, standard_error
from canet_mobile.evaluate.routing import histogram, paired, random_routing
from canet_mobile.evaluate.scoring import rank_targets, route_users
from canet_mobile.evaluate.spent import Costs
from canet_mobile.files import MANIFEST, write_json
from canet_mobile.model.recommender import move
from canet_mobile.routing.reroute import reroute
from canet_mobile.run.directory import find_run, load_canet

ROUTING = RESULTS / "routing"
SAME = 1e-5  # NDCG@10: a rank near a tie may fall otherwise in another batch


@dataclass(frozen=True)
class Seed:
    """One run on every test user: NDCG@10 as routed, by random routing and by the largest route, [n] each.

    ``cost`` is the average paper cost over that of SASRec-full, ``advice`` what `train` or `route` advised.
    """

    seed: int
    protocol: str
    routed: Values
    drawn: Values
    largest: Values
    shares: dict[str, float]
    cost: float
    advice: dict[str, Any]

    @property
    def gain(self) -> Values:
        return self.routed - self.drawn

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "ndcg10": float(self.routed.mean()),
            "largest": float(self.largest.mean()),
            "random": paired(self.routed, self.drawn),
            "routes": self.shares,
            "share_of_full": self.cost,
            "advice": self.advice,
        }


def measure(directory: Path, data: Dataset) -> Seed:
    """Route and rank every test user of a finished run."""
    run = find_run(directory)
    canet = move(load_canet(run), choose_device()).eval()
    queries = held_out(data, "test")
    taken, largest = route_users(canet, queries), len(canet.space) - 1
    counts, spent = histogram(taken, len(canet.space)), Costs.of(canet).summary(taken)
    values = np.zeros((len(canet.space), len(queries)))
    for route in np.union1d(np.flatnonzero(counts), [largest]):
        ranks = rank_targets(canet.supernet, queries, np.full(len(queries), route))
        values[route] = ndcg(ranks.under(run.config.seen), 10)
    return Seed(
        seed=run.config.seed,
        protocol=run.config.seen,
        routed=values[taken, np.arange(len(queries))],
        drawn=random_routing(values, counts),
        largest=values[largest],
        cost=spent["paper_mflops"] / spent["sasrec_full_paper_mflops"],
        advice=run.manifest["routing"]["advice"],
        shares={canet.space.routes[n].entry: float(counts[n] / counts.sum()) for n in np.flatnonzero(counts)},
    )


def refuse_another(found: Seed, data: Dataset, *, same_router: bool) -> None:
    """A run that is not the one on record, or has not its supernet, must not stand beside it."""
    path = RESULTS / f"{data.name}.canet.seed{found.seed}.json"
    told = json.loads(path.read_text(encoding="utf-8"))["evaluation"]
    judged = held_out(data, "test", limit=told["limit"]).users
    among = np.isin(held_out(data, "test").users, judged)
    checks = [("largest route", found.largest, told["routes"][-1])]
    if same_router:
        checks.append(("routed", found.routed, told["routed"]))
    for name, values, row in checks:
        here, there = float(values[among].mean()), row[found.protocol]["ndcg@10"]
        if abs(here - there) > SAME:
            sys.exit(f"{path.name}: {name} NDCG@10 {there:.6f}, but {here:.6f} with this run: not its model")


def pooled(data: Dataset, seeds: list[Seed]) -> dict[str, Any]:
    """What the seeds say together."""
    gains = [found.gain for found in seeds]
    each = over_seeds([float(gain.mean()) for gain in gains])
    pairs = [float(np.corrcoef(*pair)[0, 1]) for pair in combinations(gains, 2)]
    return {
        "data": data.name,
        "experiment": "canet",
        "users": len(gains[0]),
        "protocol": seeds[0].protocol,
        "seeds": [found.to_json() for found in seeds],
        "random": {
            "value": each["mean"],
            "se_users": standard_error(np.mean(gains, axis=0)),
            "se_seeds": each["se"],
            "correlation": float(np.mean(pairs)) if pairs else None,
        },
    }


def with_budget(directory: Path, data: Dataset, options: argparse.Namespace) -> Path:
    """The run with a router for another budget; made once."""
    made: Path = options.work / "budgets" / f"{directory.name}-{options.budget:g}"
    if not (made / MANIFEST).is_file():
        reroute(find_run(directory), data, made, {"budget": options.budget})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", help="data sets")
    add_folders(parser)
    parser.add_argument("--budget", type=float, help="a share of SASRec-full's cost to fit new routers for")
    options = parser.parse_args()
    for name in options.names:
        data = dataset(name, options.data_root, options.work)
        seeds = []
        for directory in sorted((options.work / "runs").glob(f"{name}-canet-seed*")):
            if json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["status"] != "finished":
                print(f"{directory.name}: not finished, left out", file=sys.stderr)
                continue
            new = None if options.budget is None else with_budget(directory, data, options)
            seeds.append(measure(new or directory, data))
            refuse_another(seeds[-1], data, same_router=new is None)
            print(f"{directory.name}: {seeds[-1].to_json()}", file=sys.stderr)
        if not seeds:
            sys.exit(f"{name}: no finished run in {options.work / 'runs'}; train it with compare_methods.py")
        suffix = "" if options.budget is None else f".budget{options.budget:g}"
        write_json(ROUTING / f"{name}{suffix}.json", pooled(data, seeds))


if __name__ == "__main__":
    try:
        main()
    except CanetError as error:
        sys.exit(f"error: {error}")
