"""The average of the weights: how it follows, that it teaches, and that it is what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_toys import SASREC, of_recipe, small, weights

from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.model.canet import Canet
from canet_mobile.model.supernet import Supernet
from canet_mobile.routing.validate import validate_routed
from canet_mobile.run.checkpoint import build_model
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import METRICS, load_model
from canet_mobile.train.objectives import Objective
from canet_mobile.train.trainer import train

ITEMS = 30


def objective(config: TrainConfig) -> Objective:
    torch.manual_seed(0)
    return Objective(build_model(config, ITEMS), config)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randint(1, ITEMS + 1, (2, 12, 8), generator=torch.Generator().manual_seed(1))
    both[:, :4, :3] = 0
    return both[0], both[1]


def test_the_average_is_a_plain_mean_and_then_forgets_by_half_lives() -> None:
    found = objective(small(average=2.0, tied="true"))
    assert found.average is not None
    weight, mean = found.supernet.item_table, found.average.item_table
    for step, value in enumerate((1.0, 4.0, 7.0), start=1):
        torch.nn.init.constant_(weight, value)
        found.follow(step, steps_per_epoch=100)
    assert torch.allclose(mean, torch.full_like(mean, 4.0)), "the mean of three steps"
    torch.nn.init.constant_(mean, 0.0)
    for step in range(1000, 1010):
        found.follow(step, steps_per_epoch=5)  # ten steps are one half-life of two epochs
    assert torch.allclose(mean, torch.full_like(mean, 3.5)), "half of the way to 7"


def test_the_average_teaches_but_is_not_trained() -> None:
    config = small(tied="true", dropout=0.0)
    taught, alone = objective(config), objective(small(tied="true", dropout=0.0, average=0.0))
    assert taught.average is not None and alone.average is None
    before = {name: value.clone() for name, value in taught.average.state_dict().items()}
    seq, targets = batch()
    taught.train()
    first = taught(seq, targets, 0)["loss"]
    first.backward()
    assert all(weight.grad is None for weight in taught.average.parameters())
    assert all(torch.equal(value, before[name]) for name, value in taught.average.state_dict().items())
    with torch.no_grad():
        taught.average.item_table.mul_(-3)
    assert taught(seq, targets, 0)["loss"] != first, "another teacher, another loss"
    assert alone(seq, targets, 0)["loss"] != first, "without one the largest route learns from targets alone"


def test_a_taught_sasrec_learns_half_from_its_average_half_from_the_targets() -> None:
    found = objective(of_recipe("taught", dropout=0.0))
    plain = objective(small(**SASREC, dropout=0.0))
    assert found.average is not None and plain.average is None, "any other SASRec has no teacher"
    seq, targets = batch()
    real = seq > 0

    def log_p(net: Supernet) -> torch.Tensor:
        with torch.no_grad():
            return net.scores(net.sliced(seq, net.config.space.largest)[real]).log_softmax(-1)

    with torch.no_grad():
        found.average.item_table.mul_(-3)
    student, teacher = log_p(found.supernet), log_p(found.average)
    hard = -student.gather(1, targets[real][:, None]).mean()
    soft = -(teacher.exp() * student).sum(1).mean()
    assert torch.allclose(found(seq, targets, 0)["loss"], (hard + soft) / 2)
    assert torch.allclose(plain(seq, targets, 0)["loss"], hard)


def test_the_average_of_an_averaged_sasrec_does_not_teach() -> None:
    found, plain = objective(of_recipe("averaged", dropout=0.0)), objective(small(**SASREC, dropout=0.0))
    assert found.average is not None
    with torch.no_grad():
        found.average.item_table.mul_(-3)
    seq, targets = batch()
    assert torch.equal(found(seq, targets, 0)["loss"], plain(seq, targets, 0)["loss"])
    assert isinstance(found.kept, Canet) and found.kept.supernet is found.average


def test_dropout_does_not_reach_the_teacher() -> None:
    found = objective(small(tied="true", dropout=0.5))
    assert found.average is not None
    found.train()
    found(*batch(), 0)
    assert found.supernet.training and not found.average.training


@pytest.mark.parametrize(
    "changes", [{"average": 0.0}, {"recipe": "rows"}, {"recipe": "paper"}], ids=["none", "rows", "paper"]
)
def test_only_the_sandwich_keeps_an_average(changes: dict) -> None:
    found = objective(small(tied="true", **changes))
    assert found.average is None and found.kept is found.model


@pytest.mark.parametrize(
    "config",
    [
        small(epochs=2, average=0.0),
        *(of_recipe(recipe, epochs=2) for recipe in ("sandwich", "averaged", "taught")),
    ],
    ids=["none", "sandwich", "averaged", "taught"],
)
def test_what_was_validated_is_what_the_run_keeps(
    dataset: Dataset, tmp_path: Path, config: TrainConfig
) -> None:
    run = train(config, dataset, tmp_path / "run")
    epochs = [json.loads(line) for line in (run.directory / METRICS).read_text(encoding="utf-8").splitlines()]
    best = max(epoch["validation"]["ndcg10"] for epoch in epochs)
    queries = held_out(dataset, "validation")
    assert validate_routed(load_model(run), run.config, queries, fitted=False).ndcg10 == best
    assert not list(run.directory.glob("average*")), "only an unfinished run needs it apart"


def test_the_average_changes_what_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    first, second = (
        weights(load_model(train(small(epochs=1, average=average), dataset, tmp_path / str(average))))
        for average in (0.0, 0.5)
    )
    assert not torch.equal(first["item_table"], second["item_table"])
