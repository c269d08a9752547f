"""Properties of the supernet and the router that everything else rests on."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import random_canet, random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.errors import UsageError
from canet_mobile.model.layers import attention_bias, dropout, head_major, new_blocks
from canet_mobile.model.points import BALANCED
from canet_mobile.model.router import Router, RouterConfig, sample_routes
from canet_mobile.model.space import Route, RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.run.checkpoint import build_any
from canet_mobile.run.presets import build_config

SPACES = {
    "default": RoutingSpace(),
    "fine": RoutingSpace((64, 80, 96, 112, 128), (64, 80, 96, 112, 128), (2, 4, 6, 8)),
    "coarse": RoutingSpace((64, 128), (64, 128), (4, 8)),
    "depth-only": RoutingSpace((128,), (128,), (1, 2, 3, 4, 5, 6, 7, 8)),
    "embedding-only": RoutingSpace((64, 96, 128), (128,), (8,)),
}


@pytest.mark.parametrize("name", SPACES)
def test_masked_equals_grouped_equals_sliced_for_every_route(name: str) -> None:
    space = SPACES[name]
    canet = random_canet(items=200, length=10, space=space)
    net = canet.supernet
    seq = random_histories(len(space), 200, 10)
    real = seq > 0
    route_ids = torch.randperm(len(space), generator=torch.Generator().manual_seed(1))
    soft = torch.randn(len(space), len(space)).softmax(-1)
    alpha = F.one_hot(route_ids, len(space)).float() + (soft - soft.detach())
    with torch.no_grad():
        masked = net.scores(net.masked(seq, alpha))
        grouped = torch.empty_like(masked)
        for rows, states, _ in net.grouped(seq, route_ids):
            grouped[rows] = net.scores(states)
        for row, route_id in enumerate(route_ids.tolist()):
            sliced = net.scores(net.sliced(seq[row : row + 1], space.routes[route_id]))[0]
            keep = real[row]
            torch.testing.assert_close(masked[row][keep], sliced[keep], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(grouped[row][keep], sliced[keep], atol=1e-5, rtol=1e-5)


def test_sliced_is_the_textbook_model_with_interleaved_heads() -> None:
    """An independent statement of Eq. 1, 3 and 4: explicit loops over heads, no reordering."""
    canet = random_canet(items=50, length=6, space=RoutingSpace((8, 12), (8, 12), (1, 2)))
    net, route = canet.supernet, Route(12, 8, 2)
    seq = random_histories(3, 50, 6)
    with torch.no_grad():
        x = F.linear(
            net.item_table[seq][..., :12] + net.positions[:, :12], net.in_weight[:8, :12], net.in_bias[:8]
        )
        bias = attention_bias(seq)[:, 0]
        for b in net.blocks:
            q, k, v = (F.linear(x, b.qkv_weight[i, :8, :8], b.qkv_bias[i, :8]) for i in range(3))
            mixed = torch.zeros_like(x)
            for head in range(4):
                c = list(range(head, 8, 4))
                weights = (q[..., c] @ k[..., c].transpose(1, 2) / (8 / 4) ** 0.5 + bias).softmax(-1)
                mixed[..., c] = weights @ v[..., c]
            out = F.linear(mixed, b.out_weight[:8, :8], b.out_bias[:8])
            x = F.layer_norm(x + b.residual1 * out, (8,), b.norm1_weight[:8], b.norm1_bias[:8])
            inner = F.gelu(F.linear(x, b.ffn1_weight[:32, :8], b.ffn1_bias[:32]))
            out = F.linear(inner, b.ffn2_weight[:8, :32], b.ffn2_bias[:8])
            x = F.layer_norm(x + b.residual2 * out, (8,), b.norm2_weight[:8], b.norm2_bias[:8])
        found = net.sliced(seq, route)
    torch.testing.assert_close(found[seq > 0], x[seq > 0], atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_router_through_the_sampled_route() -> None:
    canet = random_canet(items=60, length=8, space=RoutingSpace((8, 16), (8, 16), (1, 2)))
    canet.supernet.train()
    assert canet.router is not None
    seq = random_histories(16, 60, 8)
    logits = canet.router(seq, canet.supernet.item_table)
    torch.manual_seed(0)
    states = canet.supernet.masked(seq, sample_routes(logits))
    F.cross_entropy(canet.supernet.scores(states[:, -1]), seq[:, -1]).backward()
    for name in ("head_weight", "head_bias", "positions"):
        grad = getattr(canet.router, name).grad
        assert grad is not None and grad.abs().sum() > 0, name
    assert canet.router.block.ffn1_weight.grad.abs().sum() > 0


@pytest.mark.parametrize("which", ["supernet", "router"])
def test_no_position_sees_the_future_or_a_pad(which: str, canet) -> None:
    seq = random_histories(6, 300, 12, seed=3)

    def states(ids: torch.Tensor) -> torch.Tensor:
        if which == "router":
            return canet.router.states(ids, canet.supernet.item_table)
        return canet.supernet.sliced(ids, canet.space.largest)

    with torch.no_grad():
        before = states(seq)
        for position in range(1, 12):
            changed = seq.clone()
            changed[:, position] = torch.where(seq[:, position] > 0, seq[:, position] % 300 + 1, 0)
            after = states(changed)
            # Padding positions count too: the authors' code leaks the future through them.
            torch.testing.assert_close(after[:, :position], before[:, :position], atol=0, rtol=0)
        table = canet.supernet.item_table
        pad = table[0].clone()
        table[0] += 3.0
        after = states(seq)
        table[0] = pad
    torch.testing.assert_close(after[seq > 0], before[seq > 0], atol=1e-6, rtol=0)


def test_trimming_leading_pads_changes_nothing(canet) -> None:
    seq = random_histories(5, 300, 12)
    seq[:, :4] = 0
    seq[:, -1] = 7
    with torch.no_grad():
        whole, cut = (canet.supernet.sliced(s, canet.space.smallest)[:, -1] for s in (seq, seq[:, 4:]))
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-5)
        assert torch.equal(canet.route(seq), canet.route(seq[:, 4:]))


def test_routing_is_argmax_lowest_id_on_ties_and_independent_of_the_batch(canet) -> None:
    seq = random_histories(20, 300, 12)
    first = canet.route(seq)
    torch.manual_seed(99)
    assert torch.equal(first, canet.route(seq))
    alone = torch.cat([canet.route(row[None]) for row in seq])
    assert torch.equal(first, alone)
    assert canet.router is not None
    with torch.no_grad():
        canet.router.head_weight.zero_()
        canet.router.head_bias.zero_()
        canet.router.head_bias[[5, 17]] = 2.0
        canet.router.points.zero_()[0, [3, 9]] = 4.0
    assert [set(canet.route(seq, point).tolist()) for point in (0, 1, 2)] == [{3}, {5}, {5}]
    assert torch.equal(canet.route(seq), canet.route(seq, BALANCED))


def test_the_last_position_alone_equals_the_whole_pass(canet) -> None:
    seq = random_histories(6, 300, 12)
    for route in canet.space:
        with torch.no_grad():
            whole, alone = canet.supernet.sliced(seq, route)[:, -1], canet.supernet.last_states(seq, route)
        torch.testing.assert_close(alone, whole, atol=1e-6, rtol=1e-5)


def test_scores_do_not_depend_on_the_other_rows(canet) -> None:
    seq = random_histories(8, 300, 12)
    with torch.no_grad():
        for route in (canet.space.smallest, canet.space.largest):
            together = canet.supernet.scores(canet.supernet.sliced(seq, route)[:, -1])
            alone = torch.cat(
                [canet.supernet.scores(canet.supernet.sliced(s[None], route)[:, -1]) for s in seq]
            )
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_pad_class_has_no_probability_and_never_learns() -> None:
    canet = random_canet(items=30, length=6, space=RoutingSpace((8,), (8,), (1,)))
    net = canet.supernet
    scores = net.scores(net.sliced(random_histories(4, 30, 6), canet.space.smallest))
    assert (scores.softmax(-1)[..., 0] == 0).all()
    F.cross_entropy(scores.flatten(0, 1), torch.randint(1, 31, (24,))).backward()
    assert net.classifier_bias.grad[0] == 0
    assert (net.classifier_weight.grad[0] == 0).all()


def test_a_shared_router_table_stores_nothing() -> None:
    own, shared = (Router(RouterConfig(1000, 5, 4, table)) for table in ("own", "shared"))
    count = {name: sum(p.numel() for p in r.parameters()) for name, r in (("own", own), ("shared", shared))}
    assert count["own"] - count["shared"] == 1001 * 32


@given(st.sampled_from([0.1, 0.2, 0.5]))
@settings(max_examples=3, deadline=None)
def test_dropout_keeps_the_mean_and_gates_the_gradient(p: float) -> None:
    x = torch.ones(400, 500, requires_grad=True)
    y = dropout(x, p, True)
    y.sum().backward()
    assert abs(float((y == 0).float().mean()) - round(256 * p) / 256) < 0.01
    assert abs(float(y.detach().mean()) - 1) < 0.01
    assert torch.equal(x.grad, y.detach())
    assert dropout(x, p, False) is x


def test_head_major_brings_each_heads_channels_together() -> None:
    assert head_major(torch.arange(12), 0).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_route_ids_follow_the_product_depth_innermost() -> None:
    space = RoutingSpace()
    assert len(space) == len(space.routes) == 36
    assert space.routes == tuple(
        Route(e, h, d) for e, h, d in itertools.product((64, 96, 128), (64, 96, 128), (2, 4, 6, 8))
    )
    assert space.routes[1].entry == "e64_h64_d4"
    assert all(space.id_of(space.named(route.entry)) == i for i, route in enumerate(space))
    assert RoutingSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (dict(hidden=(128, 64)), "ascending"),
        (dict(depth=(2, 2)), "ascending"),
        (dict(hidden=(66,)), "multiple of 4"),
        (dict(embedding=()), "embedding"),
    ],
)
def test_impossible_spaces_are_refused(lists: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RoutingSpace(**lists)


def test_an_unknown_route_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="e64_h96_d4"):
        RoutingSpace().named("e64_h96_d5")


def test_a_plain_sasrec_has_no_in_projection() -> None:
    net = Supernet(SupernetConfig(40, 6, RoutingSpace((8,), (8,), (2,)), in_projection=False)).eval()
    assert not any(name.startswith("in_") for name, _ in net.named_parameters())
    assert net.sliced(random_histories(2, 40, 6), net.config.space.smallest).shape == (2, 6, 8)


def test_a_tied_classifier_is_the_item_table() -> None:
    sizes = {"items": 40, "length": 6, "space": RoutingSpace((8, 16), (8, 16), (1,))}
    tied, own = (Supernet(SupernetConfig(**sizes, tied=t)) for t in (True, False))
    assert tied.classifier_weight is tied.item_table
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in tied.parameters()) == 41 * 16
    with pytest.raises(UsageError, match="equal widths"):
        Supernet(SupernetConfig(40, 6, RoutingSpace((8,), (16,), (1,)), tied=True))


@pytest.mark.parametrize("model", ["canet", "sasrec", "skiprec", "autodim"])
def test_deeper_blocks_open_later(model: str) -> None:
    sizes = ("embedding=8,12", "hidden=12", "depth=2,3") if model != "sasrec" else ()
    config = build_config(model=model, settings=(*sizes, "residual=0.6", "residual_power=1"))
    built = build_any(config, 30, 5)
    blocks = list((built.supernet if model in ("canet", "sasrec") else built).blocks)
    expected = [0.6 / n for n in range(1, len(blocks) + 1)]
    assert len(blocks) == config.depth[-1]
    for part in ("residual1", "residual2"):
        assert [getattr(block, part).item() for block in blocks] == pytest.approx(expected)
    with_mean, without = (new_blocks(1, 8, residual, 1.0)[0].out_weight for residual in (0.5, 0.0))
    assert torch.equal(with_mean, torch.eye(8)) and not torch.equal(without, torch.eye(8))
