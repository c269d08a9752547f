"""Time and peak memory of importing a large synthetic log.

    python benchmarks/import_rows.py --rows 10000000 --format csv
    python benchmarks/import_rows.py --rows 10000000 --against ../before   # another checkout, in turns

The log is made in a temporary folder, imported in a process of its own, and deleted. Ids are text
(``u0001234``), times are unordered seconds, items follow a power law. Prints one JSON line a run; with
``--against`` the ratio of the medians as well. ``--quotes`` writes a column of titles, some with quotation
marks that open no field, which only the careful reader reads right.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

BLOCK = 1_000_000


def make_log(folder: Path, rows: int, users: int, items: int, form: str, quotes: bool) -> Path:
    """A log of ``rows`` rows, written a block at a time: one CSV, or a folder of Parquet parts."""
    generator = np.random.default_rng(0)
    target = folder / ("log.csv" if form == "csv" else "log")
    if form == "parquet":
        target.mkdir()
    for number, begin in enumerate(range(0, rows, BLOCK)):
        size = min(BLOCK, rows - begin)
        item = np.minimum(items * generator.random(size) ** 2.5, items - 1).astype(np.int64)
        block = pl.DataFrame(
            {
                "user_id": generator.integers(0, users, size),
                "item_id": item,
                "timestamp": generator.integers(1_600_000_000, 1_700_000_000, size),
            }
        ).with_columns(
            pl.format("u{}", pl.col("user_id").cast(pl.String).str.zfill(8)).alias("user_id"),
            pl.format("i{}", pl.col("item_id").cast(pl.String).str.zfill(7)).alias("item_id"),
        )
        if quotes:
            songs = pl.Series(["song", '12" mix'])
            block = block.with_columns(title=songs.gather(generator.integers(0, 1000, size) // 999))
        if form == "parquet":
            block.write_parquet(target / f"part-{number:05d}.parquet")
        else:
            with target.open("ab") as file:
                block.write_csv(file, include_header=number == 0, quote_style="never")
    return target


def peak_rss_mib() -> int:
    """The most memory this process has held, without what its parent held before it started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        )
        return round(int(line.split()[1]) / 1024)
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale)


def run_import(source: Path, out: Path) -> None:
    """Import, and print what it took; runs in a process of its own."""
    from canet_mobile.data.importer import import_log

    begin = time.perf_counter()
    dataset = import_log(source, out)
    seconds = time.perf_counter() - begin
    rows = dataset.manifest["stages"]["read"]
    found = {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_rss_mib": peak_rss_mib(),
        "counts": dataset.manifest["counts"],
    }
    print(json.dumps(found))


def main() -> None:
    """Make the log, import it in a subprocess, print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--import-only", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--quotes", action="store_true", help="a title column with marks that open no field")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="time its import as well, in turns")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each with --against")
    options = parser.parse_args()
    if options.import_only:
        run_import(*map(Path, options.import_only))
        return
    here = Path(__file__).resolve().parent.parent
    checkouts = {"now": here} | ({"before": options.against.resolve()} if options.against else {})
    speeds: dict[str, list[float]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory(prefix="canet-bench-") as name:
        folder = Path(name)
        source = make_log(folder, options.rows, options.users, options.items, options.format, options.quotes)
        for number in range(options.repeat if options.against else 1):
            for which, root in checkouts.items():
                out = folder / f"{which}-{number}"
                command = [sys.executable, __file__, "--import-only", str(source), str(out)]
                done = subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": str(root)},
                    encoding="utf-8",
                )
                found = json.loads(done.stdout)
                speeds[which].append(found["rows_per_second"])
                print(json.dumps({"checkout": which} | found), flush=True)
                shutil.rmtree(out)
    if options.against:
        now, before = (statistics.median(speeds[which]) for which in ("now", "before"))
        print(json.dumps({"now_of_before": round(now / before, 2)}))


if __name__ == "__main__":
    main()
