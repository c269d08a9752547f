"""Turn the records of train_step.py and step_memory.py into the tables of docs/training.md.

    python benchmarks/step_tables.py

Nothing is computed here but roundings: every figure is that of benchmarks/results/train_step.json or
benchmarks/results/step_memory.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from canet_mobile.files import atomic_file

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "training.md"


def _record(name: str) -> Any:
    return json.loads((HERE / "results" / name).read_text(encoding="utf-8"))


def _table(header: str, left: int, rows: list[list[str]]) -> str:
    """A Markdown table whose first ``left`` columns are text, the others figures."""
    columns = header.count("|") + 1
    ruler = "|---" * left + "|---:" * (columns - left) + "|"
    return "\n".join([f"| {header} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)])


def steps() -> str:
    """A training step of every recipe, over a plain SASRec's."""
    rows = []
    for size in _record("train_step.json")["steps-cpu-1"]["sizes"]:
        found = size["candidates"]
        full, by_rows, sandwich = (found[name] for name in ("SASRec 8x128", "rows", "sandwich"))
        ratios = [found[name]["ratio"] for name in ("rows", "sandwich", "paper (masked)", "SASRec 2x64")]
        rows.append(
            [
                f"{size['batch']}, {size['length']}, {size['items']:,}",
                *(f"{ratio:.2f}" for ratio in ratios),
                *(f"{each['targets_per_second']:,}" for each in (full, by_rows, sandwich)),
                f"{full['loss_share']:.0%} / {by_rows['loss_share']:.0%}",
            ]
        )
    header = (
        "batch, length, items | `rows` | `sandwich` | `paper` | SASRec 2x64 | targets/s, 8x128 | `rows` "
        "| `sandwich` | loss, 8x128 / `rows`"
    )
    return _table(header, 1, rows)


def forms() -> str:
    """The three forms of one route per row."""
    rows = []
    for size in _record("train_step.json")["forms-cpu-1"]["sizes"]:
        found = size["candidates"]
        ratios = [f"{found[name]['ratio']:.2f}" for name in ("masked", "grouped", "sliced")]
        rows.append([f"{size['batch']}, {size['length']}", *ratios, f"{found['masked']['ms']:,.0f}"])
    return _table("batch, length | masked | grouped by width | sliced, route by route | masked, ms", 1, rows)


def loss() -> str:
    """The catalogue loss beside PyTorch's own."""
    rows = []
    for size in _record("train_step.json")["loss-cpu-1"]["sizes"]:
        found = size["candidates"]
        cells = [f"{one['ms']:,.0f} ({one['ratio']:.2f})" for one in found.values()]
        rows.append([f"{size['batch'] * size['length']:,}", f"{size['items']:,}", *cells])
    header = (
        "positions | items | `F.linear`, `F.cross_entropy` | `F.linear_cross_entropy`, options "
        "| `catalogue_loss`"
    )
    return _table(header, 1, rows)


def memory() -> str:
    """Peak memory of a step, and what grows with positions x items."""
    record = _record("step_memory.json")
    names = ("items", "batch", "peak_mib", "imports_mib", "weights_mib", "all_scores_mib")
    rows = [[case["recipe"], *(f"{case[name]:,}" for name in names)] for case in record["cases"]]
    header = (
        "recipe | items | batch | peak MiB | of which imports | weights MiB | a matrix of all scores, MiB"
    )
    grown = record["growth_with_positions_x_items"]
    return (
        f"{_table(header, 1, rows)}\n\nOf what more rows take of `sandwich`, the part that grows with "
        f"positions × items is {grown['peak_mib']:,} MiB, where a matrix of all\nscores would have added "
        f"{grown['all_scores_mib']:,} MiB (and its gradient again)."
    )


TABLES = {"steps": steps, "forms": forms, "loss": loss, "memory": memory}


def page(text: str) -> str:
    """The page with today's tables between their marks."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    made = page(PAGE.read_text(encoding="utf-8"))
    with atomic_file(PAGE) as temporary:
        temporary.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
