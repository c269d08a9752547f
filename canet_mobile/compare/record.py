"""The small JSON record that every single run of a comparison leaves: one home for what stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from canet_mobile.data.dataset import Dataset

if TYPE_CHECKING:
    from canet_mobile.run.directory import Run


DERIVED = ("verdict",)  # of an evaluation: follows from the rest of it


def make_record(experiment: str, run: Run, dataset: Dataset, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What one training was, what it took and what came out.

    Args:
        experiment: the method's name in its comparison.
        run: the finished run; its manifest tells configuration, machine and progress.
        dataset: what it was trained on.
        evaluation: its document of schemas/evaluation.schema.json on the test split.

    Returns:
        Plain values: configuration, seed, machine, epochs (``best_epoch`` counts from 0), why training ended,
        seconds of training steps, what polishing gained, routing, and the evaluation with its metrics and
        costs; not what a rule concludes from them, which is read off by the rule of the day.
    """
    progress = run.manifest["progress"]
    return {
        "data": dataset.name,
        "experiment": experiment,
        "seed": run.config.seed,
        "config": run.manifest["config"],
        "counts": dataset.manifest["counts"],
        "machine": run.manifest["machine"],
        "epochs": progress["epoch"],
        "best_epoch": progress["best_epoch"],
        "stopped_by": progress["stopped_by"],
        "training_seconds": round(progress["seconds"]),
        "validation_ndcg10": progress["best_ndcg10"],
        "polish": run.manifest.get("polish"),
        "routing": run.manifest["routing"],
        "evaluation": {name: value for name, value in evaluation.items() if name not in DERIVED},
    }


def converged(record: Mapping[str, Any]) -> bool:
    """Whether validation stood still for the run's `patience`; any other run might have become better.

    A best epoch before the last one is not enough: in a few short epochs a model can wait on a plateau.
    """
    return bool(record["stopped_by"] == "patience")
