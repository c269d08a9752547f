"""What quantization presets and their choices cost on validation users, in PyTorch with the integers.

    python benchmarks/quantization.py runs/retail runs/beauty

No package is made: activations stay float32, so this is the quantizer's share alone. Ranges "to the largest
value" clip nothing; "by squared error" lets each row or group end where its squared error is least.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canet_mobile.data.split import held_out
from canet_mobile.evaluate.metrics import ndcg, standard_error
from canet_mobile.files import write_json
from canet_mobile.machine import describe_machine
from canet_mobile.model import integers as kit
from canet_mobile.model.canet import Canet
from canet_mobile.model.integers import CLIPS, TABLE, IntegerModel, Quantized, dequantized, quantize_model
from canet_mobile.replay.reference import overlap, ranks_in_lists, routed_lists
from canet_mobile.run.automatic import seen_protocol
from canet_mobile.run.directory import find_run, load_canet, open_dataset

RESULTS = Path(__file__).parent / "results" / "quantization.json"


def with_clips(clips: tuple[float, ...], make: Callable[[], IntegerModel]) -> IntegerModel:
    """Quantize with other ends of ranges to try."""
    before = kit.CLIPS
    kit.CLIPS = clips
    try:
        return make()
    finally:
        kit.CLIPS = before


def int8_by_squared_error(canet: Canet) -> IntegerModel:
    """int8 whose rows end where their squared error is least; not offered, because it changes nothing."""
    found = {}
    folded = kit.parameters(kit.fold_residuals(canet))
    for name, plain in quantize_model(canet).tensors.items():
        weight = folded[name].detach().float()
        best = plain
        for share in CLIPS[1:]:
            values, scale = kit._scaled(weight, weight.abs().amax(-1, keepdim=True) * share, kit.INT8_MAX)
            errors = [(weight - v.float() * s).square().sum(-1, keepdim=True) for v, s in
                      ((values, scale), (best.values, best.scale))]  # fmt: skip
            better = errors[0] < errors[1]
            best = Quantized(
                torch.where(better, values.to(torch.int8), best.values),
                torch.where(better, scale, best.scale),
            )
        found[name] = best
    return IntegerModel(found)


def choices(canet: Canet) -> dict[str, IntegerModel]:
    """Every row of the table."""
    table = frozenset({TABLE})
    return {
        "int8": quantize_model(canet),
        "int8, ranges by squared error": int8_by_squared_error(canet),
        "int4, ranges to the largest value, item table int8": with_clips(
            (1.0,), lambda: quantize_model(canet, 4, higher=table)
        ),
        "int4, ranges by squared error, item table int8": quantize_model(canet, 4, higher=table),
        "int4, ranges by squared error, item table int4": quantize_model(canet, 4),
    }


def measure(directory: Path, users: int) -> list[dict[str, Any]]:
    """The rows of one run."""
    run = find_run(directory)
    canet, dataset = load_canet(run), open_dataset(run)
    seen = seen_protocol(run.config, dataset)
    queries = held_out(dataset, "validation", limit=users)
    seqs = queries.inputs(slice(None), canet.supernet.config.length)

    def judged(model: Canet) -> tuple[Any, np.ndarray]:
        lists = routed_lists(model, seqs, 10, seen)
        return lists, ndcg(ranks_in_lists(lists.ids, queries.targets), 10)

    exact, base = judged(canet)
    rows = []
    for name, integers in choices(canet).items():
        lists, values = judged(dequantized(canet, integers))
        rows.append(
            {
                "run": run.name,
                "items": dataset.num_items,
                "users": len(queries),
                "seen": seen,
                "choice": name,
                "ndcg10_fp32": float(base.mean()),
                "relative": float((values - base).mean() / base.mean()),
                "relative_se": standard_error(values - base) / float(base.mean()),
                "top10_overlap": float(overlap(lists.ids, exact.ids, 10).mean()),
                "router_agreement": float((lists.routes == exact.routes).mean()),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = "| run, items | choice | NDCG@10 | top-10 overlap | router agrees |\n|---|---|---:|---:|---:|\n"
    return head + "\n".join(
        f"| {r['run']}, {r['items']:,} | {r['choice']} | {r['relative']:+.1%} ± {r['relative_se']:.1%} "
        f"| {r['top10_overlap']:.3f} | {r['router_agreement']:.1%} |"
        for r in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [row for directory in options.runs for row in measure(directory, options.users)]
    write_json(options.out, {"benchmark": "quantization", "machine": describe_machine(), "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
