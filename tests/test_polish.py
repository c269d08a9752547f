"""Polishing: each route learns from its own users; kept if it pays, begun again if stopped."""

from __future__ import annotations

import json
import os
import signal
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_dataset
from training_toys import assert_same, small, weights

from canet_mobile.cli.train import summary
from canet_mobile.compare.record import make_record
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out
from canet_mobile.model.canet import Canet
from canet_mobile.model.losses import sandwich_loss
from canet_mobile.routing.candidates import doubts, judge
from canet_mobile.routing.ladder import escalated
from canet_mobile.routing.reroute import reroute
from canet_mobile.run.checkpoint import build_model
from canet_mobile.run.config import TrainConfig
from canet_mobile.run.directory import Run, find_run, load_canet, load_model, open_dataset
from canet_mobile.run.reporter import Silent
from canet_mobile.train import polish as module
from canet_mobile.train.objectives import Tutor
from canet_mobile.train.polish import Served, StopAsked, polish, polishes
from canet_mobile.train.trainer import Interrupted, resume, train

# Few epochs leave much to learn; a rate of 1 leaves nothing of what was learned.
LEARNS = dict(epochs=1, polish=4, lr=2e-2, seen="keep", tied="true", moving=False)
RUN = {**LEARNS, "polish": 8, "lr": 5e-3}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("polish") / "shop", users=300)


@pytest.fixture(scope="module")
def polished(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(small(**RUN), shop, tmp_path_factory.mktemp("runs") / "polished")


def fresh(config: TrainConfig, dataset: Dataset) -> Canet:
    torch.manual_seed(1)
    return build_model(config, dataset.num_items).eval()


def never() -> bool:
    return False


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[tuple[str, int, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))


def test_what_is_learned_is_kept_and_the_model_before_is_left_as_it_was(shop: Dataset) -> None:
    config, heard = small(**LEARNS), Notes()
    before = fresh(config, shop)
    as_it_was = deepcopy(weights(before))
    after, found = polish(before, config, shop, heard, never)
    assert found["kept"] and found["epochs"] == 4 and found["users"] == 150
    assert found["gain"]["value"] > 2 * found["gain"]["se"] > 0
    assert all(torch.equal(as_it_was[name], value) for name, value in weights(before).items())
    assert after.router is before.router and after.supernet is not before.supernet
    said = [note for note in heard.notes if note.startswith("polished, epoch ")]
    assert len(said) == 4 and said[-1].startswith("polished, epoch 4/4: +0.") and "150 validation" in said[-1]
    assert heard.notes[-1] == "polishing pays and is kept"
    assert "polishing, epoch 4 of 4, step" in {name for name, _, _ in heard.stages}
    again, _ = polish(before, config, shop, Silent(), never)
    assert_same(after, again)

    # The gain is that of the choosing users, each on the route that the summary says.
    space, choosing = config.space, held_out(shop, "validation", limit=150)
    small_id, large_id = (space.id_of(space.named(found[key])) for key in ("small", "large"))
    everybody = judge(before.supernet, held_out(shop, "validation"), "keep")
    order = everybody.entropy[everybody.routes.index(small_id)]
    order = order if found["first"] == "entropy" else -order
    up = escalated(order, found["escalated_share"])

    def served(canet: Canet) -> np.ndarray:
        judged = judge(canet.supernet, choosing, "keep")
        one, other = (judged.ndcg10[judged.routes.index(n)] for n in (small_id, large_id))
        return np.where(up[choosing.users], other, one)

    assert (served(after) - served(before)).mean() == pytest.approx(found["gain"]["value"])


def test_what_does_not_pay_is_given_up_after_an_epoch_and_changes_nothing(shop: Dataset) -> None:
    config = small(**LEARNS)
    learned, _ = polish(fresh(config, shop), config, shop, Silent(), never)
    heard = Notes()
    same, found = polish(learned, replace(config, lr=1.0), shop, heard, never)
    assert same is learned and not found["kept"] and found["epochs"] == 1 and found["gain"]["value"] < 0
    assert heard.notes[-1] == "polishing does not pay and is not kept"


def test_a_gain_that_may_be_luck_is_not_kept(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(**LEARNS)
    monkeypatch.setattr(module, "SURE", 1e9)
    before = fresh(config, shop)
    after, found = polish(before, config, shop, Silent(), never)
    assert after is before and found["gain"]["value"] > 0 and found["epochs"] == 4 and not found["kept"]


def test_a_loss_that_is_not_finite_ends_it(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    config = small(**LEARNS)
    before, heard = fresh(config, shop), Notes()
    after, found = polish(before, config, shop, heard, never)
    assert after is before and found["epochs"] == 0 and not found["kept"]
    assert heard.notes[-2] == "warning: the loss is not finite in epoch 1 of polishing, step 1"


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_each_route_learns_from_its_own_users_alone(average: float, shop: Dataset) -> None:
    """A user's history says nothing to the route that does not serve them, beyond what both share."""
    config = small(**LEARNS, average=average)
    space = config.space
    served = Served(space.smallest, space.largest, np.arange(300) % 2 == 0)
    users = np.array([0, 1, 2, 5])
    parts = served.parts(users)
    assert [(route, rows.tolist()) for route, rows in parts] == [
        (space.smallest, [False, True, False, True]),
        (space.largest, [True, False, True, False]),
    ]
    assert [route for route, _ in served.parts(np.array([2, 4]))] == [space.largest]

    net, teacher = (fresh(config, shop).supernet.eval() for _ in range(2))
    tutor = Tutor(teacher, None, 0.0)
    seq = torch.tensor([[0, 3, 4, 5], [1, 2, 3, 4], [0, 0, 9, 8], [5, 6, 7, 8]])
    targets = torch.where(seq > 0, seq % 40 + 1, 0)
    total, count = 0.0, 0
    for row, route in enumerate((space.largest, space.smallest, space.largest, space.smallest)):
        real = seq[row : row + 1] > 0
        states = net.sliced(seq[row : row + 1], route)[real]
        at = tutor.at(seq[row : row + 1])
        total += float(sandwich_loss(net, [states], targets[row : row + 1][real], at)[0].detach())
        count += int(real.sum())
    assert float(module._loss(net, tutor, parts, seq, targets).detach()) == pytest.approx(
        total / count, rel=1e-5
    )

    # With everybody on the smallest route, what only larger ones have does not move.
    alone = Served(space.smallest, space.largest, np.zeros(300, np.bool_))
    trained = deepcopy(net)
    for kept in module._epochs(trained, net, replace(config, polish=1), shop, alone, Silent(), never):
        assert (kept is trained) == (average == 0)
    grown = dict(trained.named_parameters())
    assert torch.equal(grown["item_table"][:, 8:], net.item_table[:, 8:])
    assert not torch.equal(grown["item_table"][:, :8], net.item_table[:, :8])


def test_doubts_are_those_of_judging(shop: Dataset) -> None:
    config = small()
    net, queries = fresh(config, shop).supernet, held_out(shop, "validation", limit=70)
    for seen in ("keep", "exclude"):
        judged = judge(net, queries, seen)
        for number, route_id in enumerate(judged.routes):
            found = doubts(net, queries, config.space.routes[route_id], seen)
            assert np.allclose(found, judged.entropy[number], atol=1e-5)


def test_which_runs_end_with_it() -> None:
    asked = TrainConfig(polish=3)
    assert polishes(asked, "epochs") and polishes(asked, "patience")
    assert polishes(replace(asked, recipe="rows"), "epochs")
    assert not polishes(asked, "max_minutes")
    assert not polishes(TrainConfig(), "epochs"), "it has not paid on three data sets"
    assert not polishes(replace(asked, recipe="paper"), "epochs")
    assert not polishes(replace(asked, model="gru4rec"), "epochs")


def test_a_run_is_polished_before_its_router_is_fitted(shop: Dataset, polished: Run, tmp_path: Path) -> None:
    plain = train(small(**{**RUN, "polish": 0}), shop, tmp_path / "plain")
    assert "polish" not in plain.manifest and polished.manifest["polish"]["kept"]
    with pytest.raises(AssertionError):
        assert_same(load_model(polished), load_model(plain))
    better, before = (each.manifest["routing"]["validation"]["ndcg10"] for each in (polished, plain))
    assert better > before
    assert make_record("canet", polished, shop, {})["polish"] == polished.manifest["polish"]
    assert make_record("canet", plain, shop, {})["polish"] is None


def test_a_new_router_tells_of_the_polished_supernet_it_got(
    shop: Dataset, polished: Run, tmp_path: Path
) -> None:
    rerouted = reroute(polished, shop, tmp_path / "rerouted", {"escalate": 0.5})
    assert rerouted.manifest["polish"] == polished.manifest["polish"]
    gain = polished.manifest["polish"]["gain"]
    told = f"polished       +{gain['value']:.4f} ± {gain['se']:.4f} NDCG@10 on 150 validation users, kept"
    assert told in summary(polished).splitlines() and told in summary(rerouted).splitlines()
    assert torch.equal(load_canet(rerouted).supernet.item_table, load_canet(polished).supernet.item_table)


class StopInPolishing(Silent):
    """Asks to stop as Ctrl-C would, in the second epoch of polishing."""

    def stage(self, name: str, done: int, total: int) -> None:
        if name.startswith("polishing, epoch 2") and done == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_stopped_while_polishing_resumes_to_the_same_result(
    shop: Dataset, polished: Run, tmp_path: Path
) -> None:
    config, whole = small(**RUN), polished
    with pytest.raises(Interrupted, match="stopped while polishing, epoch 2, step 1 of ") as caught:
        train(config, shop, tmp_path / "cut", reporter=StopInPolishing())
    assert caught.value.exit_code == 130 and "--resume" in str(caught.value)
    cut = find_run(tmp_path / "cut")
    assert cut.manifest["status"] == "interrupted" and "polish" not in cut.manifest
    resumed = resume(cut, open_dataset(cut))
    assert_same(load_model(whole), load_model(resumed))
    assert resumed.manifest["polish"] == whole.manifest["polish"]
    lines = (resumed.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0]


def test_stopping_is_asked_after_every_step(shop: Dataset) -> None:
    asked: list[int] = []

    def third() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(StopAsked, match="epoch 1, step 3 of "):
        polish(fresh(small(**LEARNS), shop), small(**LEARNS), shop, Silent(), third)
