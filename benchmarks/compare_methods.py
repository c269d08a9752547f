"""Train and evaluate the methods of experiments.toml; every run leaves one JSON record.

    python benchmarks/compare_methods.py --data-root DIR online-retail.sasrec-full s3rec-beauty
    python benchmarks/compare_methods.py --list

A record that is there is not computed again, and a run that was interrupted goes on where it stopped.
Records stand in benchmarks/results/; `python benchmarks/results_table.py` turns them into docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from canet_mobile.accelerator import choose_device
from canet_mobile.cli.progress import TrainReporter
from canet_mobile.compare.methods import is_plain_sasrec, method_config, select
from canet_mobile.compare.record import make_record
from canet_mobile.data.dataset import Dataset, load_dataset
from canet_mobile.data.embedded_set import embedded_dataset
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.errors import CanetError
from canet_mobile.evaluate.evaluation import evaluate_model
from canet_mobile.files import MANIFEST, write_json
from canet_mobile.model.recommender import move
from canet_mobile.routing.reroute import reroute
from canet_mobile.run.config import TrainConfig, apply
from canet_mobile.run.directory import Run, find_run, load_model
from canet_mobile.train.trainer import resume, train

HERE = Path(__file__).parent
RESULTS = HERE / "results"
EVALUATED = 25_000  # test users at most, evenly spaced
EXPERIMENTS = tomllib.loads((HERE / "experiments.toml").read_text(encoding="utf-8"))
ROUTERS = ("canet-entropy", "canet-own")
# Methods that take another's keys; their pins say what they differ in.
GROUPS = {"canet-polished": "canet", "canet-selftaught": "canet"}
NOT_IMPORT = ("source", "methods", "seeds")


def experiments() -> list[tuple[str, str]]:
    """Every (data set, method), in the file's order."""
    return [(data, name) for data, table in EXPERIMENTS.items() for name in table["methods"]]


def dataset(name: str, root: Path | None, work: Path) -> Dataset:
    """Import a data set once into the work folder."""
    folder = work / "datasets" / name
    if name == "online-retail":
        return embedded_dataset(folder)
    if (folder / MANIFEST).is_file():
        return load_dataset(folder)
    if root is None:
        sys.exit(
            f"{name} needs --data-root (or CANET_DATA): the folder that holds {EXPERIMENTS[name]['source']}"
        )
    plain = {k: v for k, v in EXPERIMENTS[name].items() if not isinstance(v, dict)}
    options = {k: v for k, v in plain.items() if k not in NOT_IMPORT}
    return import_log(root / EXPERIMENTS[name]["source"], folder, ImportOptions(name=name, **options))


def planned(data: str, name: str) -> dict[str, Any]:
    """What experiments.toml says of a method: what all of the data set share, its group, it alone."""
    table = EXPERIMENTS[data]
    group = "sasrec" if is_plain_sasrec(name) else GROUPS.get(name, "")
    return {**table.get("shared", {}), **table.get(group, {}), **table.get(name, {})}


def configured(data: Dataset, name: str, seed: int, threads: int) -> TrainConfig:
    """The defaults, what is planned, and what makes the method."""
    base = apply(TrainConfig(), {**planned(data.name, name), "threads": threads})
    (method,) = select([name], base, data.num_items)
    return method_config(method, base, seed)


def trained(data: Dataset, name: str, seed: int, work: Path, threads: int) -> Run:
    """Train, go on, or take the finished run; another router takes CANet's supernet if it is here."""
    config = configured(data, name, seed, threads)
    runs = work / "runs"
    directory = runs / f"{data.name}-{name}-seed{seed}"
    source = runs / f"{data.name}-canet-seed{seed}"
    with TrainReporter(config) as reporter:
        if (directory / MANIFEST).is_file():
            run = find_run(directory)
            return run if run.manifest["status"] == "finished" else resume(run, data, reporter=reporter)
        if name in ROUTERS and (source / MANIFEST).is_file():
            changes = {key: getattr(config, key) for key in ("router_label", "router_table")}
            return reroute(find_run(source), data, directory, changes, reporter=reporter)
        return train(config, data, directory, reporter=reporter)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """The options that say where public data sets are, and where imported ones and runs go."""
    parser.add_argument("--data-root", type=Path, default=os.environ.get("CANET_DATA") or None)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="datasets and runs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="data set, or data set.experiment")
    add_folders(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print(*(f"{data}.{name}" for data, name in experiments()), sep="\n")
        return
    for data_name, name in experiments():
        full = f"{data_name}.{name}"
        if options.names and full not in options.names and data_name not in options.names:
            continue
        record = RESULTS / f"{full}.seed{options.seed}.json"
        if record.is_file():
            print(f"{full}: recorded", file=sys.stderr)
            continue
        print(f"{full}: training", file=sys.stderr)
        data = dataset(data_name, options.data_root, options.work)
        run = trained(data, name, options.seed, options.work, options.threads)
        model = move(load_model(run), choose_device())
        found = evaluate_model(model, data, "test", EVALUATED)
        write_json(record, make_record(name, run, data, found))


if __name__ == "__main__":
    try:
        main()
    except CanetError as error:
        sys.exit(f"error: {error}")
