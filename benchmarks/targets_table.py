"""Turn the records of targets.py and package_sizes.py into docs/targets/README.md and the README's tables.

    python benchmarks/targets_table.py

Nothing is computed here but ratios: every figure stands in a record that targets.py or package_sizes.py wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from canet_mobile.files import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parent
OUT = ROOT / "docs" / "targets" / "README.md"
BLOCKS = ("sizes", "targets")  # of the README, between <!-- NAME:begin --> and <!-- NAME:end -->
ORDER = ("executorch", "coreml", "tflite", "onnx")
HELD = ("default", "all")
PRESETS = ("fp32", "fp16", "int8", "int4")
NONE = "not measured"
INTRO = """# Targets side by side

Made by `python benchmarks/targets_table.py` from the records in `benchmarks/results/`. What each format is and how
an app runs it: [executorch](executorch.md), [coreml](coreml.md), [tflite](tflite.md), [onnx](onnx.md).

Latencies are those of x86-64 host runtimes on one thread and are given as ratios to the stock fp32 export of a plain
SASRec (128 x 8) with the same toolkit, taken in turns in one process: what a user would ship without canet-mobile.
Core ML cannot run off a Mac: its accuracy is that of the reference interpreter, its latency and memory are not
measured. Load is opening the package, the router and the smallest route's first call. Memory is what these, and then the
largest held route besides, add to a Python process that has the runtime imported. No phone was measured.

The **default package** holds the routes that its router gives to users ([export.md](../export.md#which-routes)),
usually two of 36; "all" is `export --routes all`. Where a table has no row for a default package, none was recorded.

The runs, one thread and one seed each: `retail` is `canet-mobile train --set epochs=4` on the embedded data; `beauty` is
Amazon Beauty with all its items (`data import --min-item-count 1`), `train --set recipe=rows --set tied=true --set
residual=0.1 --set batch=64 --set lr=4e-3 --set dropout=0.3 --set epochs=5`. Neither had converged, and the routers of both
use two routes of two blocks: the average user is that cheap because of it.
"""
OVER_CATALOGUES = """## Over catalogues

Random weights, length 50, untied, shared router table: `python benchmarks/package_sizes.py`. The default package is that of
a router which takes the routes of the recorded run on online-retail (canet, seed 0). "Weights in use" are those of its routes
and its router, each number counted once; the full model alone is the largest route without a router, as a file of its own.
Export is the writing of the file alone, without what surrounds and checks it; the default packages were written beside
other work, which costs CPU time too.
"""


def megabytes(size: int) -> str:
    """Bytes in MB (powers of ten)."""
    return f"{size / 1e6:.2f}"


def records() -> list[dict[str, Any]]:
    """Every record, by run, target and preset."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / "targets").glob("*.json"))
    ]
    return sorted(
        found,
        key=lambda r: (r["items"], HELD.index(r["held"]), ORDER.index(r["target"]), preset(r)),
    )


def preset(record: dict[str, Any]) -> int:
    """The place of a record's preset in the tables."""
    return PRESETS.index(record["quantization"])


def package_of(record: dict[str, Any]) -> str:
    """Which package a record is of."""
    return f"all {record['routes']}" if record["held"] == "all" else f"default, {record['routes']}"


def row(record: dict[str, Any]) -> str:
    """One line of the table of a run."""
    sizes, accuracy = record["sizes"], record["accuracy"]
    latency, memory = record["latency"], record["memory"]
    ours, theirs = accuracy["package"]["ndcg@10"], accuracy["pytorch_fp32"]["ndcg@10"]
    cells = [
        f"{record['target']} {record['quantization']}",
        package_of(record),
        megabytes(sizes["total_bytes"]),
        f"{sizes['total_bytes'] / sizes['full_model_alone_bytes']:.2f}",
        f"{accuracy['users']:,}",
        f"{ours:.4f} / {theirs:.4f} ({ours / theirs - 1:+.2%})",
        f"{accuracy['router']:.1%}",
        f"{accuracy['top10_overlap']:.3f}",
    ]
    if latency is None or "failed" in latency:
        cells += [NONE] * 3
    else:
        cells += [f"{latency[name]['to_stock_fp32']:.2f}" for name in ("smallest", "average_user", "full")]
    if memory is None or "failed" in memory:
        cells += [NONE] * 2
    else:
        cells += [
            f"{memory['router_and_smallest_first_ms'] + memory['open_ms']:.0f}",
            f"{memory['router_and_smallest_bytes'] / 1e6:.1f} / {memory['and_full_bytes'] / 1e6:.1f}",
        ]
    cells.append(f"{record['export_and_checks_cpu_seconds']:.0f}")
    return f"| {' | '.join(cells)} |"


def run_table(rows: list[dict[str, Any]]) -> str:
    """The table of one run."""
    first = rows[0]
    integers = {r["integers"]["sha256"] for r in rows if r["quantization"] == "int8" and r["integers"]}
    said = ""
    if len(integers) == 1:
        count = sum(r["quantization"] == "int8" for r in rows)
        said = f"The {count} int8 packages hold the same integers (`{next(iter(integers))[:16]}`).\n\n"
    head = (
        f"## {first['run']}: {first['items']:,} items, seen={first['seen']}\n\n{said}"
        "| target, preset | routes | MB | / full model alone | test users | NDCG@10: package / PyTorch fp32 | same route "
        "| top-10 overlap | smallest | average user | largest | load, ms | memory, MB | export + checks, CPU s |\n"
        f"|---|---|{'---:|' * 12}\n"
    )
    return head + "\n".join(map(row, rows)) + "\n"


def size_rows() -> list[dict[str, Any]]:
    """The rows of package_sizes.json; the default package before all routes."""
    path = RESULTS / "package_sizes.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows.sort(key=lambda r: (r["items"], ORDER.index(r["target"]), preset(r), HELD.index(r["held"])))
    return rows


def sizes_table() -> str:
    """Sizes and export times over catalogues."""
    lines = [
        f"| {r['items']:,} | {r['target']} {r['quantization']} | {package_of(r)} | {megabytes(r['model_bytes'])} "
        f"| {r['to_weights_once']:.2f} | {r['ratio']:.2f} | {r['export_cpu_seconds']:.0f} "
        f"| {r['peak_resident_bytes'] / 1e9:.1f} |"
        for r in size_rows()
    ]
    return (
        f"{OVER_CATALOGUES}\n"
        "| items | target, preset | routes | MB | / weights in use | / full model alone "
        "| export, CPU s | peak memory, GB |\n|---:|---|---|---:|---:|---:|---:|---:|\n"
        + "\n".join(lines)
        + "\n"
    )


def short_sizes() -> str:
    """The README's first: int8 default packages beside what they could weigh, and beside all routes."""
    found = {(r["items"], r["target"], r["held"]): r for r in size_rows() if r["quantization"] == "int8"}
    lines = []
    for (items, target, held), ours in found.items():
        every = found.get((items, target, "all"))
        if held != "default" or every is None:
            continue
        lines.append(
            f"| {items:,} | {target} | {megabytes(ours['model_bytes'])} | {ours['to_weights_once']:.2f} "
            f"| {ours['ratio']:.2f} | {ours['export_cpu_seconds']:.0f} | {megabytes(every['model_bytes'])} "
            f"| {every['ratio']:.2f} | {every['export_cpu_seconds']:.0f} |"
        )
    return (
        "| items | int8 package | default: two routes and router, MB | / weights in use | / full model alone "
        "| export, CPU s | all 36 routes, MB | / full model alone | export, CPU s |\n"
        f"|---:|---|{'---:|' * 7}\n" + "\n".join(lines) + "\n"
    )


def short_targets() -> str:
    """The README's second: int8 packages of trained runs."""
    lines = []
    for record in records():
        if record["quantization"] != "int8":
            continue
        sizes, accuracy, latency = record["sizes"], record["accuracy"], record["latency"]
        ours, theirs = accuracy["package"]["ndcg@10"], accuracy["pytorch_fp32"]["ndcg@10"]
        is_timed = latency is not None and "failed" not in latency
        shares = (
            [f"{latency[n]['to_stock_fp32']:.2f}" for n in ("smallest", "average_user")]
            if is_timed
            else [NONE] * 2
        )
        lines.append(
            f"| {record['items']:,} | {record['target']} | {package_of(record)} "
            f"| {megabytes(sizes['total_bytes'])} | {megabytes(sizes['separate_files_bytes'])} "
            f"| {ours:.4f} / {theirs:.4f} | {' | '.join(shares)} |"
        )
    return (
        "| items | int8 package | routes | MB | a file per route and router, MB "
        "| NDCG@10: package / PyTorch fp32 | smallest route / stock | average user / stock |\n"
        f"|---:|---|---|{'---:|' * 5}\n" + "\n".join(lines) + "\n"
    )


def document() -> str:
    """The whole page."""
    by_run: dict[str, list[dict[str, Any]]] = {}
    for record in records():
        by_run.setdefault(record["run"], []).append(record)
    return "\n".join([INTRO, sizes_table(), *map(run_table, by_run.values())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    write_text(options.out, document())
    print(f"wrote {options.out}")
    if options.out == OUT:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        for name, table in zip(BLOCKS, (short_sizes(), short_targets()), strict=True):
            begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{table}{end}{rest.split(end)[1]}"
        write_text(readme, text)
        print(f"wrote the tables of {readme}")


if __name__ == "__main__":
    main()
