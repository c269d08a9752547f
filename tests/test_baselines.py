"""The paper's compared methods: what they compute, that they learn, and what the commands do with them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import lively, make_dataset, random_histories
from test_train import StopAt

from canet_mobile.cli.main import run as cli
from canet_mobile.compare.methods import known_methods, method_config
from canet_mobile.data.dataset import Dataset
from canet_mobile.data.split import held_out, training_windows
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.evaluate.evaluation import evaluate_model
from canet_mobile.evaluate.scoring import rank_model, request_mflops
from canet_mobile.model import costs
from canet_mobile.model.compared import autodim
from canet_mobile.model.compared.fpmc import FPMC
from canet_mobile.model.compared.nextitnet import CausalConvolution
from canet_mobile.model.space import Route
from canet_mobile.run.checkpoint import build_any
from canet_mobile.run.config import BASELINES, TrainConfig
from canet_mobile.run.directory import find_run, load_canet, load_model, open_dataset
from canet_mobile.run.presets import build_config, variants
from canet_mobile.schema import validate
from canet_mobile.train.trainer import Interrupted, resume, train

ITEMS, USERS, LENGTH = 50, 12, 9
SMALL = dict(
    embedding=(8, 16), hidden=(8, 16), depth=(1, 2), length=8, batch=16, epochs=3,
    validation_users=0, warmup_steps=5, threads=1, router_table="own",
)  # fmt: skip


def small(**changes) -> TrainConfig:
    return TrainConfig(**{**SMALL, **changes})


def build(name: str, **changes):
    """A method in eval mode whose every weight matters, and whose choices differ."""
    torch.manual_seed(0)
    model = build_any(small(model=name, length=LENGTH, **changes), ITEMS, USERS)
    lively(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        if name == "skiprec":
            model.policy.head_weight.mul_(20)
        if name == "autodim":
            model.group.copy_(torch.arange(ITEMS + 1) % autodim.GROUPS)
            model.choice.copy_(torch.arange(autodim.GROUPS) % 2)
    return model.eval()


def score(model, seq: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.scores(model.last_states(seq, users))


@pytest.fixture
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    return random_histories(USERS, ITEMS, LENGTH), torch.arange(USERS)


@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) for name in BASELINES for tied in ("false", "true") if (name, tied) != ("fpmc", "true")],
)
def test_scores_ignore_padding_and_the_rest_of_the_batch(name: str, tied: str, histories) -> None:
    model = build(name, tied=tied)
    seq, users = histories
    together = score(model, seq, users)
    assert together.shape == (USERS, ITEMS + 1)
    assert (together[:, 0] < together[:, 1:].min(1).values - 1000).all(), "padding is never recommended"
    for row in range(USERS):
        alone = seq[row : row + 1, int((seq[row] > 0).int().argmax()) :]
        assert (alone > 0).all()
        torch.testing.assert_close(score(model, alone, users[row : row + 1])[0], together[row])


@pytest.mark.parametrize("name", BASELINES)
def test_states_know_nothing_of_later_items(name: str, histories) -> None:
    model = build(name)
    seq, users = histories
    changed = seq.clone()
    changed[:, -2:] = changed[:, -2:] % ITEMS + 1

    def states(ids: torch.Tensor) -> torch.Tensor:
        if name == "fpmc":
            return model.states(ids, users)
        # SkipRec decides once for the whole history, as CANet does; the layers themselves are causal.
        return model.states(ids, model.kept(seq)) if name == "skiprec" else model.states(ids)

    with torch.no_grad():
        before, after = states(seq), states(changed)
    real = seq[:, :-2] > 0
    assert torch.equal(before[:, :-2][real], after[:, :-2][real])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_a_causal_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = CausalConvolution(6, dilation=2)
    x = torch.randn(3, 7, 6)
    taps = layer.weight.view(6, 3, 6).transpose(1, 2)  # [out, in, tap]
    y = F.conv1d(F.pad(x.transpose(1, 2), (4, 0)), taps, layer.bias, dilation=2).transpose(1, 2)
    torch.testing.assert_close(layer(x), F.relu(F.layer_norm(y, (6,), layer.norm_weight, layer.norm_bias)))


def test_nextitnet_has_the_papers_32_convolutions() -> None:
    model = build_any(TrainConfig(model="nextitnet"), 3, 3)
    layers = [m for m in model.modules() if isinstance(m, CausalConvolution)]
    assert [layer.dilation for layer in layers] == [1, 2, 4, 8] * 8
    assert {tuple(layer.weight.shape) for layer in layers} == {(128, 3 * 128)}


def test_skiprec_computes_what_its_gates_say(histories) -> None:
    model = build("skiprec", depth=(3,))
    seq, _ = histories
    for pattern in itertools.product([False, True], repeat=3):
        keep = torch.tensor(pattern).expand(USERS, -1)
        with torch.no_grad():
            torch.testing.assert_close(model.states(seq, keep), model.gated(seq, keep.float()))


def test_skiprec_costs_what_each_user_keeps(histories) -> None:
    model = build("skiprec")
    with torch.no_grad():
        model.policy.item_table.mul_(50)  # a policy that tells users apart
        model.policy.head_bias.zero_()
    seq, _ = histories
    kept = model.kept(seq).sum(1)
    assert len(kept.unique()) > 1
    for found, layers in zip(model.mflops(seq), kept.tolist(), strict=True):
        plain = costs.paper_macs(ITEMS, LENGTH, Route(16, 16, layers), in_projection=False)
        assert found == costs.table_mflops(plain + costs.router_paper_macs(LENGTH, 4))


def test_skiprec_gradients_reach_the_policy(histories) -> None:
    model = build("skiprec").train()
    seq, users = histories
    model.loss(seq, seq, users)["loss"].backward()
    assert model.policy.head_weight.grad.abs().max() > 0


@pytest.mark.parametrize("tied", ["false", "true"])
def test_autodim_reads_an_item_at_its_own_size(tied: str, histories) -> None:
    model = build("autodim", tied=tied)
    seq, users = histories
    before = score(model, seq, users)
    sizes = torch.tensor(model.sizes)[model.choice][model.group]
    with torch.no_grad():
        model.item_table.masked_fill_(torch.arange(16) >= sizes[:, None], 7.0)
    assert torch.equal(score(model, seq, users), before), "channels beyond an item's size are never read"
    mean = float(sizes.double().mean())
    plain = costs.paper_macs(ITEMS, LENGTH, Route(16, 16, 2), in_projection=False)
    head = (ITEMS + 1) * (mean - 16) + 16 * (8 + 16) if tied == "true" else 0
    expected = costs.table_mflops(plain + LENGTH * mean * 16 + head)
    assert model.mflops(seq).tolist() == [expected] * USERS


def test_popularity_groups_are_tenths_of_the_catalogue() -> None:
    counts = np.random.default_rng(0).integers(0, 100, 95)
    group = autodim.popularity_groups(counts)
    sizes = np.bincount(group[1:], minlength=10)
    assert sizes.sum() == 94 and sizes.min() >= 9 and sizes.max() <= 10
    least = [counts[1:][group[1:] == g].min() for g in range(9)]
    most = [counts[1:][group[1:] == g].max() for g in range(1, 10)]
    assert all(a >= b for a, b in zip(least, most, strict=True))


def test_fpmc_knows_its_users_and_never_draws_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("fpmc")
    seq = torch.full((2, 3), 5)
    first, second = score(model, seq, torch.tensor([0, 1]))
    assert not torch.allclose(first, second)
    drawn = []
    real = F.embedding
    monkeypatch.setattr(F, "embedding", lambda ids, table: drawn.append(ids) or real(ids, table))
    many = torch.randint(1, ITEMS + 1, (200, 9))
    model.loss(many, many, torch.zeros(200, dtype=torch.int64))
    target, other = drawn[-1]
    assert (target != other).all() and set(other.tolist()) == set(range(1, ITEMS + 1))


def test_fpmc_has_factors_for_every_history(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(model="fpmc", epochs=1), dataset, tmp_path / "run")
    model = load_model(run)
    assert isinstance(model, FPMC) and len(model.user_table) == dataset.num_histories
    windows = training_windows(dataset, 3)
    assert (dataset.offsets[windows.users] <= windows.starts).all()
    assert (windows.ends <= dataset.offsets[windows.users + 1] - 2).all()


@pytest.mark.parametrize("name", BASELINES)
def test_each_learns_a_toy_chain_better_than_popularity(name: str, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "chain", users=150, items=40)
    config = small(model=name, epochs=6, lr=2e-2, batch=32, dropout=0.1)
    run = train(config, data, tmp_path / "run")
    found = evaluate_model(load_model(run), data)
    validate(found, "evaluation", where="document")
    assert found["model"] == name and found["costs"]["executed_mflops"] is None
    gap = found["floors"]["popularity"]["difference"]["keep"]["ndcg@10"]
    assert gap["value"] > 5 * gap["se"]
    assert found["routed"]["keep"]["ndcg@10"] > 2 * found["floors"]["popularity"]["keep"]["ndcg@10"]
    average = request_mflops(load_model(run), held_out(data, "test")).mean()
    assert found["costs"]["paper_mflops"] == pytest.approx(average, abs=1e-3)


def assert_same(first, second) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


# AutoDim's search takes the first 5 steps; they are not saved but made again.
@pytest.mark.parametrize("stop", [2, 9])
@pytest.mark.parametrize("name", BASELINES)
def test_an_interrupted_run_resumes_to_the_uninterrupted_result(
    name: str, stop: int, dataset: Dataset, tmp_path: Path
) -> None:
    config = small(model=name)
    whole = train(config, dataset, tmp_path / "whole")
    again = train(config, dataset, tmp_path / "again")
    assert_same(load_model(whole), load_model(again))
    with pytest.raises(Interrupted, match="--resume"):
        train(config, dataset, tmp_path / "cut", reporter=StopAt(stop))
    cut = find_run(tmp_path / "cut")
    assert cut.manifest["status"] == "interrupted"
    resumed = resume(cut, open_dataset(cut))
    assert_same(load_model(whole), load_model(resumed))
    for key in ("search", "routing"):
        assert resumed.manifest.get(key) == whole.manifest.get(key)
    ranks = [rank_model(load_model(run), held_out(dataset, "test")).keep for run in (whole, resumed)]
    assert (ranks[0] == ranks[1]).all()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", BASELINES)
def test_each_trains_in_low_precision(name: str, precision: str, dataset: Dataset, tmp_path: Path) -> None:
    tied = "false" if name == "fpmc" else "true"
    run = train(small(model=name, epochs=1, precision=precision, tied=tied), dataset, tmp_path / "run")
    assert {p.dtype for p in load_model(run).parameters()} == {torch.float32}


def test_the_search_is_in_the_manifest(dataset: Dataset, tmp_path: Path) -> None:
    run = train(small(model="autodim", epochs=1, search_epochs=3), dataset, tmp_path / "run")
    found, model = run.manifest["search"], load_model(run)
    assert found["groups"] == [model.sizes[n] for n in model.choice]
    assert sum(found["items"].values()) == dataset.num_items and set(found["items"]) == {"8", "16"}


@pytest.mark.parametrize("name", BASELINES)
def test_the_commands_train_evaluate_and_refuse_to_export(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "small")
    keys = {k: v for k, v in SMALL.items() if k != "epochs"}
    sets = [f"--set={k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in keys.items()]
    assert cli(["train", "--data", "small", "--model", name, *sets, "--set=epochs=1"]) == 0
    assert f"runs/small-{name}-1" in capsys.readouterr().out
    assert cli(["inspect"]) == 0
    capsys.readouterr()
    assert cli(["evaluate"]) == 0
    text = capsys.readouterr().out
    assert "floor: markov" in text and "None" not in text
    saved = json.loads(
        (tmp_path / "runs" / f"small-{name}-1" / "evaluation-test.json").read_text(encoding="utf-8")
    )
    assert saved["model"] == name and saved["run"]["name"] == f"small-{name}-1"
    assert cli(["export", "--target", "executorch"]) == 1
    message = capsys.readouterr().err
    assert f"is a {name} run; only canet and sasrec can be exported" in message and "fix:" in message
    with pytest.raises(CanetError, match="only canet and sasrec"):
        load_canet(find_run())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(model="gru4rek"), "did you mean 'gru4rec'"),
        (dict(model="nextitent"), "did you mean 'nextitnet'"),
        (dict(model="canet-gu"), "did you mean 'canet-u'|did you mean 'canet-ug'|did you mean 'canet-g'"),
        (dict(model="gru4rec", width=64), "size a SASRec"),
        (dict(model="autodim", settings=("embedding=64",)), "at least two embedding sizes"),
        (dict(model="nextitnet", settings=("hidden=64",)), "NextItNet has one width"),
        (dict(model="fpmc", settings=("tied=true",)), "no classifier to tie"),
        (dict(model="autodim", settings=("search_epochs=0",)), "out of range"),
    ],
)
def test_bad_configuration_says_what_and_the_fix(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_config(**arguments)
    assert "fix:" in str(caught.value)


def test_sizes_are_the_papers() -> None:
    assert build_any(build_config(model="gru4rec"), 3, 3).layers[1].weight_hh_l0.shape == (3 * 256, 256)
    skiprec = build_any(build_config(model="skiprec"), 3, 3)
    assert (len(skiprec.blocks), skiprec.width) == (8, 128)
    found = build_any(build_config(model="autodim"), 3, 3)
    assert (found.sizes, found.width, found.depth) == ((64, 96, 128), 128, 8)
    assert build_any(build_config(model="fpmc"), 3, 3).item_table.shape == (4, 256)


def test_a_variant_means_in_train_what_it_means_in_a_comparison() -> None:
    base = TrainConfig()
    known = known_methods(base, items=1000)
    for name in variants():
        if name != "sasrec-small":  # there it is as dear as the budget, here as in the paper
            assert build_config(model=name) == method_config(known[name], base, seed=0)
    for name in BASELINES:
        pinned = method_config(known[name], base, seed=0)
        assert build_config(model=name) == (replace(pinned, tied="auto") if name == "fpmc" else pinned)


@pytest.mark.parametrize("preset", ["default", "quick", "paper"])
def test_variants_pin_their_keys_whatever_the_preset(preset: str) -> None:
    for name, pins in variants().items():
        config = build_config(model=name, preset=preset).to_json()
        assert {key: config[key] for key in pins} == pins
    off = {name: build_config(model=name, preset=preset) for name in ("canet-u", "canet-g", "canet-ug")}
    weights = {name: (c.lambda_uniform, c.lambda_guide) for name, c in off.items()}
    assert weights == {"canet-u": (0, 0.01), "canet-g": (0.01, 0), "canet-ug": (0, 0)}
    assert {len(build_config(model=f"canet-{n}").space) for n in ("depth", "coarse")} == {8}
    assert len(build_config(model="canet-fine").space) == 100
