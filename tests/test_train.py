"""Training: determinism, resuming after a kill, run directories, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from conftest import make_dataset
from training_toys import SMALL, assert_same, of_recipe, small, weights

from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.files import sha256_file, write_text
from canet_mobile.run.config import RECIPES, SASREC_RECIPES, TrainConfig
from canet_mobile.run.directory import find_run, load_model, open_dataset
from canet_mobile.run.presets import build_config, presets
from canet_mobile.run.reporter import Silent
from canet_mobile.train import trainer
from canet_mobile.train.schedule import learning_rate
from canet_mobile.train.trainer import Interrupted, resume, train


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_seed_gives_the_same_model_twice_and_learns(recipe: str, dataset: Dataset, tmp_path: Path) -> None:
    config = of_recipe(recipe, epochs=4, lr=1e-2)
    runs = [train(config, dataset, tmp_path / name) for name in ("a", "b")]
    assert_same(load_model(runs[0]), load_model(runs[1]))
    lines = [
        json.loads(line)
        for line in (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]
    assert all(0 <= line["validation"]["ndcg10"] <= 1 for line in lines)
    if recipe not in SASREC_RECIPES:
        validation = runs[0].manifest["routing"]["validation"]
        assert sum(validation["routes"].values()) == pytest.approx(1)
        assert validation["router_entropy"] is not None
    other = train(of_recipe(recipe, epochs=1, seed=1), dataset, tmp_path / "c")
    with pytest.raises(AssertionError):
        assert_same(load_model(runs[0]), load_model(other))


class StopAt(Silent):
    """Asks the loop to stop as Ctrl-C would, after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_run_resumes_to_the_uninterrupted_result(
    recipe: str, stop: int, dataset: Dataset, tmp_path: Path
) -> None:
    config = of_recipe(recipe)
    whole = train(config, dataset, tmp_path / "whole")
    with pytest.raises(Interrupted, match="saved") as caught:
        train(config, dataset, tmp_path / "cut", reporter=StopAt(stop))
    assert caught.value.exit_code == 130
    assert "--resume" in str(caught.value)
    cut = find_run(tmp_path / "cut")
    assert cut.manifest["status"] == "interrupted"
    with pytest.raises(CanetError, match="no finished model"):
        load_model(cut)
    resumed = resume(cut, open_dataset(cut))
    assert_same(load_model(whole), load_model(resumed))

    def steady(run: str) -> list[dict]:
        records = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [{k: v for k, v in r.items() if k not in ("seconds", "targets_per_second")} for r in records]

    assert steady("whole") == steady("cut")


def test_a_killed_process_resumes_to_the_uninterrupted_result(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small")
    settings = [f"--set={k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in SMALL.items()]
    command = [sys.executable, "-m", "canet_mobile", "train", "--data", "small", *settings, "--set=epochs=12"]
    command += ["--set=patience=40"]

    def call(*more: str) -> None:
        subprocess.run([*command, *more], cwd=tmp_path, check=True, capture_output=True)

    call("--out", "whole")
    with subprocess.Popen([*command, "--out", "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        metrics = tmp_path / "killed" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed = find_run(tmp_path / "killed")
    assert killed.manifest["status"] == "running", "the process ended before it could be killed"
    subprocess.run(
        [sys.executable, "-m", "canet_mobile", "train", "--resume", "killed"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert_same(load_model(find_run(tmp_path / "whole")), load_model(find_run(tmp_path / "killed")))


@pytest.mark.parametrize(("width", "depth"), [(8, 1), (16, 3)])
def test_a_plain_sasrec_trains_with_the_same_code(
    width: int, depth: int, dataset: Dataset, tmp_path: Path
) -> None:
    sizes = dict(embedding=(width,), hidden=(width,), depth=(depth,))
    run = train(small(model="sasrec", **sizes), dataset, tmp_path / "run")
    canet = load_model(run)
    assert canet.router is None and run.manifest["routing"] is None
    assert len(canet.supernet.blocks) == depth and not hasattr(canet.supernet, "in_weight")


def test_model_choice_takes_the_best_epoch_and_patience_stops(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.4, 0.9])
    real, kept = trainer.validate_routed, []

    def scripted(canet, config, queries, *, fitted):
        found = real(canet, config, queries, fitted=fitted)
        value = next(scores, 0.0)
        kept.append({k: v.cpu().clone() for k, v in canet.supernet.state_dict().items()})
        return type(found)(value, found.mflops, found.routes, found.router_entropy)

    monkeypatch.setattr(trainer, "validate_routed", scripted)
    run = train(small(epochs=6, patience=3, recipe="paper"), dataset, tmp_path / "run")
    assert run.manifest["progress"]["stopped_by"] == "patience"
    assert (run.manifest["progress"]["epoch"], run.manifest["progress"]["best_epoch"]) == (5, 1)
    chosen = load_model(run).supernet.state_dict()
    assert all(torch.equal(chosen[k], kept[1][k]) for k in chosen)
    assert not all(torch.equal(chosen[k], kept[4][k]) for k in chosen)


def test_latest_names_the_newest_run(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("first", "second"):
        train(small(epochs=1), dataset, tmp_path / name)
    assert find_run(tmp_path / "latest").name == "second"


@pytest.mark.parametrize("damage", ["truncate", "flip", "replace"])
def test_a_damaged_checkpoint_is_refused_by_name(damage: str, dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(epochs=1), dataset, tmp_path / "run")
    path = run.directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    else:
        other = train(small(epochs=1, hidden=(8, 12, 16)), dataset, tmp_path / "other")
        data = bytearray((other.directory / "model.safetensors").read_bytes())
        run.manifest["checkpoints"]["model"] |= {
            "bytes": len(data),
            "sha256": sha256_file(other.directory / "model.safetensors"),
        }
    path.write_bytes(data)
    message = {"truncate": "truncated", "flip": "SHA-256", "replace": "another space"}[damage]
    with pytest.raises(CanetError, match=message) as caught:
        load_model(run)
    assert "model.safetensors" in str(caught.value)


def test_a_damaged_trainer_state_is_refused_before_anything_changes(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(small(), dataset, tmp_path / "run", reporter=StopAt(2))
    run = find_run(tmp_path / "run")
    state = run.directory / run.manifest["checkpoints"]["trainer"]["name"]
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CanetError, match=r"trainer-.*truncated"):
        resume(run, dataset)


def test_another_data_set_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(epochs=1), dataset, tmp_path / "run")
    other = make_dataset(tmp_path / "other", seed=5)
    with pytest.raises(CanetError, match="content hash"):
        open_dataset(run, other.directory)
    assert open_dataset(run).content_hash == dataset.content_hash


def test_an_existing_run_is_kept_without_force(dataset: Dataset, tmp_path: Path) -> None:
    train(small(epochs=1), dataset, tmp_path / "run")
    before = sha256_file(tmp_path / "run" / "model.safetensors")
    with pytest.raises(CanetError, match="--force"):
        train(small(epochs=1, seed=3), dataset, tmp_path / "run")
    assert sha256_file(tmp_path / "run" / "model.safetensors") == before
    train(small(epochs=1, seed=3), dataset, tmp_path / "run", force=True)
    assert sha256_file(tmp_path / "run" / "model.safetensors") != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["latest", "run", "small"]
    assert find_run(tmp_path / "latest").name == "run"


class Fails(Silent):
    """Ends the training at its first step with an error of its own."""

    def step(self, epoch: int, done: int, total: int, parts: dict[str, float]) -> None:
        raise RuntimeError("a crash")


@pytest.mark.parametrize("end", [StopAt(2), Fails()], ids=["Ctrl-C", "crash"])
def test_a_replaced_run_stands_until_the_new_one_is_finished(
    end: Silent, dataset: Dataset, tmp_path: Path
) -> None:
    old = train(small(epochs=1), dataset, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in old.directory.iterdir()}
    config = small(epochs=2, seed=3)
    with pytest.raises((Interrupted, RuntimeError)):
        train(config, dataset, tmp_path / "run", force=True, reporter=end)
    assert {path.name: path.read_bytes() for path in old.directory.iterdir()} == before
    load_model(find_run(tmp_path / "run"))
    unfinished = find_run(tmp_path / "latest")  # what `train --resume runs/latest` goes on with
    assert (unfinished.directory.name, unfinished.name) == ("run.new", "run")
    new = resume(unfinished, open_dataset(unfinished))
    assert new.directory == tmp_path / "run" and not (tmp_path / "run.new").exists()
    assert find_run(tmp_path / "latest").directory == new.directory.resolve()
    assert open_dataset(new).content_hash == dataset.content_hash
    assert "replaces" not in new.manifest
    assert_same(load_model(new), load_model(train(config, dataset, tmp_path / "plain")))


def test_a_second_attempt_to_replace_a_run_begins_anew(dataset: Dataset, tmp_path: Path) -> None:
    train(small(epochs=1), dataset, tmp_path / "run")
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(small(seed=3), dataset, tmp_path / "run", force=True, reporter=StopAt(1))
    assert train(small(epochs=1, seed=4), dataset, tmp_path / "run", force=True).config.seed == 4


def test_a_run_of_ones_own_beside_the_replaced_one_is_not_touched(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("run", "run.new"):
        train(small(epochs=1), dataset, tmp_path / name)
    with pytest.raises(CanetError, match=r"run\.new: stands where the new run would be made"):
        train(small(epochs=1, seed=3), dataset, tmp_path / "run", force=True)
    assert find_run(tmp_path / "run").config.seed == find_run(tmp_path / "run.new").config.seed == 0


def test_a_run_killed_between_its_last_step_and_the_old_ones_place_is_resumed_there(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small(epochs=1), dataset, tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "finish_run", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        train(small(epochs=1, seed=3), dataset, tmp_path / "run", force=True)
    assert find_run(tmp_path / "run").config.seed == 0
    assert resume(find_run(tmp_path / "run.new"), dataset).directory == tmp_path / "run"
    assert find_run(tmp_path / "run").config.seed == 3


def test_a_run_finds_its_data_set_when_both_were_moved(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "here" / "datasets" / "small")
    train(small(epochs=1), made, tmp_path / "here" / "runs" / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    run = find_run(tmp_path / "there" / "runs" / "run")
    assert run.manifest["dataset"]["directory"] == "../../datasets/small"
    assert open_dataset(run).directory == tmp_path / "there" / "datasets" / "small"
    (tmp_path / "there" / "datasets" / "small").rename(tmp_path / "there" / "datasets" / "renamed")
    assert open_dataset(run).directory.name == "renamed"
    (tmp_path / "there" / "datasets").rename(tmp_path / "elsewhere")
    with pytest.raises(CanetError, match=rf"none with its content hash {made.content_hash[:12]}… is in"):
        open_dataset(run)


def test_the_effective_configuration_is_toml_whatever_stands_in_it(dataset: Dataset, tmp_path: Path) -> None:
    name = 'Café 日本 😀 "quoted"\\'
    config = small(costs=name, recipe="paper")
    write_text(tmp_path / "c.toml", tomli_w.dumps(config.to_json()))
    assert build_config(file=tmp_path / "c.toml") == config
    run = train(small(epochs=1), dataset, tmp_path / name)
    assert build_config(file=run.directory / "config.toml") == run.config
    assert find_run(tmp_path / "latest").name == name


def test_a_run_is_not_called_latest(dataset: Dataset, tmp_path: Path) -> None:
    train(small(epochs=1), dataset, tmp_path / "run")
    for force in (False, True):
        with pytest.raises(CanetError, match="the link to the newest run"):
            train(small(epochs=1), dataset, tmp_path / "latest", force=force)
    assert find_run(tmp_path / "latest").name == "run"


def test_a_full_disk_leaves_a_run_that_resumes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from safetensors import torch as safetensors_torch

    real, calls = safetensors_torch.save_file, []

    def full(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(safetensors_torch, "save_file", full)
    with pytest.raises(CanetError, match="no space left"):
        train(small(), dataset, tmp_path / "run")
    resumed = resume(find_run(tmp_path / "run"), dataset)
    monkeypatch.undo()
    assert_same(load_model(resumed), load_model(train(small(), dataset, tmp_path / "whole")))


def test_runaway_training_is_stopped(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self, *batch):
        return {"loss": sum(p.sum() for p in self.parameters()) * float("nan")}

    monkeypatch.setattr(trainer.Objective, "forward", broken)
    with pytest.raises(CanetError, match=r"not finite at step 0[\s\S]*lr="):
        train(small(), dataset, tmp_path / "run")


def test_learning_rate_warms_up_and_falls_to_its_final_share() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=10, final_lr=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) <= 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_beta2_changes_what_is_learned(dataset: Dataset, tmp_path: Path) -> None:
    usual, longer, explicit = (
        weights(load_model(train(small(epochs=1, **changes), dataset, tmp_path / name)))["item_table"]
        for name, changes in (("a", {}), ("b", {"beta2": 0.999}), ("c", {"beta2": 0.98}))
    )
    assert not torch.equal(usual, longer)
    assert torch.equal(usual, explicit)


def test_a_run_older_than_a_key_keeps_what_it_was_trained_with(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(epochs=1), dataset, tmp_path / "run")
    document = json.loads((run.directory / "manifest.json").read_text(encoding="utf-8"))
    for key in ("residual_power", "beta2", "moving", "cooccurrence", "polish"):
        del document["config"][key]
    (run.directory / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    found = find_run(run.directory).config
    assert (found.residual_power, found.beta2, found.moving) == (0.0, 0.999, False)
    assert (found.cooccurrence, found.polish) == (0.0, 0)
    assert found.residual == run.config.residual


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("model", ["canet", "sasrec"])
def test_every_preset_is_a_valid_configuration(preset: str, model: str) -> None:
    config = build_config(preset=preset, model=model)
    assert (
        TrainConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.to_json().items()})
        == config
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(preset="fast"), "unknown preset 'fast'"),
        (dict(preset="qick"), "did you mean 'quick'"),
        (dict(settings=("droput=0.1",)), "did you mean 'dropout'"),
        (dict(settings=("lr=fast",)), "lr = 'fast' is not a number"),
        (dict(settings=("batch=1.5",)), "not a whole number"),
        (dict(settings=("compile=maybe",)), "true or false"),
        (dict(settings=("epochs=0",)), "out of range"),
        (dict(settings=("beta2=1",)), "beta2 = 1.0 is out of range"),
        (dict(settings=("lr",)), "not key=value"),
        (dict(settings=("recipe=sandwhich",)), "did you mean 'sandwich'"),
        (dict(settings=("hidden=64;96",)), "list of whole numbers"),
        (dict(width=64), "--model sasrec"),
        (dict(model="sasrek"), "did you mean 'sasrec'"),
        (dict(model="sasrec", settings=("depth=2,4",)), "one width and one depth"),
        (dict(settings=("hidden=64", "embedding=64", "depth=2")), "at least two routes"),
        (dict(settings=("recipe=taught",)), "not model = canet with average = 0.5"),
        (dict(model="gru4rec", settings=("recipe=averaged",)), "recipe = averaged is a SASRec"),
        (dict(model="sasrec", settings=("recipe=taught", "average=0")), "with average = 0\n"),
    ],
)
def test_bad_configuration_names_the_key_the_value_and_the_fix(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_config(**arguments)
    assert "fix:" in str(caught.value)


def test_a_toml_file_lies_between_preset_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("lr = 0.5\nbatch = 7\nhidden = [64, 128]\n", encoding="utf-8")
    config = build_config(preset="quick", file=file, settings=("batch=9",))
    assert (config.lr, config.batch, config.hidden, config.recipe) == (0.5, 9, (64, 128), "rows")
    file.write_text("lr = \n", encoding="utf-8")
    with pytest.raises(UsageError, match="not valid TOML"):
        build_config(file=file)
