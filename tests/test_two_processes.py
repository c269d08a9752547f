"""Two processes train one model; the first alone finishes it, and an interrupted run goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import make_dataset
from training_toys import SMALL, assert_same, small

from canet_mobile.data.dataset import load_dataset
from canet_mobile.run.directory import find_run, load_model, open_dataset
from canet_mobile.run.reporter import Silent
from canet_mobile.train import trainer
from canet_mobile.train.trainer import Interrupted, resume, train

SECONDS = 60  # that the first process waits for the end of the other, which takes tenths of one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    settings = [f"--set={k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in SMALL.items()]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={free_port()}",
    ]
    done = subprocess.run(
        [*torchrun, "-m", "canet_mobile", "train", "--data", "small", "--out", "two", "--set=accelerator=cpu",
         "--set=recipe=paper", *settings],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        encoding="utf-8",)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation") == 1, "only the first process reports"
    run = find_run(tmp_path / "two")
    assert run.manifest["status"] == "finished"
    alone = train(small(recipe="paper"), open_dataset(run), tmp_path / "one")
    # Two processes share an epoch's batches between them.
    assert run.manifest["progress"]["step"] == 3 * (alone.manifest["progress"]["step"] // 3 // 2)
    losses = [
        json.loads(x)["train"]["loss"]
        for x in (tmp_path / "two/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert losses[-1] < losses[0]


class StopAt(Silent):
    """Asks for a stop as Ctrl-C would, in the first process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        self.left -= 1
        if self.left == 0 and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGINT)


def work(folder: Path, name: str, stop: int) -> None:
    """What each of the two processes does: train the default recipe, or go on with a run that stands there.

    The first waits for the other's end before it fits the router.
    """
    ended, settle = folder / f"{name}.ended", trainer.settle_routing

    def settled_alone(*arguments: object, **named: object) -> object:
        deadline = time.monotonic() + SECONDS
        while not ended.exists():
            assert time.monotonic() < deadline, "the other process still waits"
            time.sleep(0.01)
        return settle(*arguments, **named)  # type: ignore[arg-type]

    trainer.settle_routing = settled_alone  # type: ignore[assignment]
    dataset, reporter = load_dataset(folder / "small"), StopAt(stop)
    try:
        if (folder / name).exists():
            resume(find_run(folder / name), dataset, reporter=reporter)
        else:
            train(small(accelerator="cpu"), dataset, folder / name, reporter=reporter)
    except Interrupted:
        assert stop
    if os.environ["RANK"] == "1":
        ended.touch()


def two(folder: Path, name: str, stop: int = 0) -> dict:
    """Start both; returns the run's manifest."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}",
         __file__, str(folder), name, str(stop)],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        check=False,
        encoding="utf-8",)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / f"{name}.ended").unlink()
    return find_run(folder / name).manifest


def test_the_default_recipe_in_two_processes_is_finished_by_the_first_alone_and_resumed_to_the_same_bits(
    tmp_path: Path,
) -> None:
    make_dataset(tmp_path / "small")
    whole = two(tmp_path, "whole")
    assert (whole["status"], whole["config"]["recipe"]) == ("finished", "sandwich")
    assert whole["routing"]["operating_points"]
    cut = two(tmp_path, "cut", stop=3)
    assert (cut["status"], cut["progress"]["step"]) == ("interrupted", 3)
    resumed = two(tmp_path, "cut")
    assert resumed["progress"]["step"] == whole["progress"]["step"]
    assert_same(load_model(find_run(tmp_path / "whole")), load_model(find_run(tmp_path / "cut")))
    losses = [
        [
            json.loads(line)["train"]
            for line in (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
