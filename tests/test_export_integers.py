"""One integer supernet: integers of the full tensors, positive scales, slices of both."""

from __future__ import annotations

import pytest
import torch
from conftest import random_canet, random_histories

from canet_export.slices import Slice
from canet_mobile.errors import UsageError
from canet_mobile.model.integers import (
    IntegerModel,
    dequantized,
    fold_residuals,
    halved,
    is_quantized,
    parameters,
    quantize,
    quantize_model,
)
from canet_mobile.model.space import RoutingSpace

SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))


def test_integers_are_symmetric_and_scales_positive() -> None:
    weight = torch.randn(5, 7)
    weight[2] = 0
    weight[3] *= 1e-30
    found = quantize(weight)
    assert found.values.dtype == torch.int8
    assert found.values.abs().amax(-1).tolist() == [127, 127, 0, 0, 127]
    assert found.scale.shape == (5, 1)
    assert (found.scale > 0).all()
    assert not found.values[2:4].any()
    assert (
        (found.dequantized() - weight).abs() <= found.scale * 0.57 + 1e-9
    ).all()  # a float16 scale may be short by half a thousandth


def test_slices_take_the_integers_and_scales_of_the_full_tensor() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    found = quantize_model(canet).tensors["supernet.blocks.1.qkv_weight"]
    piece = Slice("supernet.blocks.1.qkv_weight", 8, 0, 8, part=2)
    assert torch.equal(piece.of(found.values), found.values[2, :8, :8])
    assert torch.equal(piece.of_integers(found).scale, found.scale[2, :8])
    assert piece.of(found.values).untyped_storage().nbytes() == 64


@torch.no_grad()
def test_folding_changes_no_score_whatever_the_sign_of_lambda() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    for value, block in zip((-0.7, 0.0), canet.supernet.blocks, strict=True):
        block.residual1.fill_(value)
        block.residual2.fill_(-value)
    folded = fold_residuals(canet)
    seqs = random_histories(5, 30, 8)
    for route in SPACE:
        torch.testing.assert_close(
            folded.supernet.sliced(seqs, route), canet.supernet.sliced(seqs, route), atol=1e-5, rtol=1e-5
        )
    assert torch.equal(folded.route(seqs), canet.route(seqs))
    assert float(canet.supernet.blocks[0].residual1) == torch.tensor(-0.7)
    assert (quantize_model(canet).tensors["supernet.blocks.1.out_weight"].values == 0).all()


def test_the_reference_holds_the_integers_and_everything_else_as_it_was() -> None:
    canet = random_canet(items=30, length=8, space=SPACE, table="own")
    integers = quantize_model(canet)
    reference, folded = parameters(dequantized(canet, integers)), parameters(fold_residuals(canet))
    for name, tensor in reference.items():
        expected = integers.tensors[name].dequantized() if name in integers.tensors else folded[name]
        assert torch.equal(tensor, expected), name
    quantized = {name.split(".")[-1] for name in integers.tensors}
    assert quantized == {
        "item_table", "own_classifier", "in_weight", "qkv_weight", "out_weight", "ffn1_weight", "ffn2_weight",
    }  # fmt: skip
    assert [name for name in integers.tensors if name.startswith("router.")] == ["router.item_table"]


def test_scales_are_float16_numbers_and_tiny_rows_are_zero() -> None:
    weight = torch.randn(6, 64) * torch.tensor([10.0, 1.0, 1e-3, 1e-6, 1e-9, 0.0])[:, None]
    for bits in (8, 4):
        found = quantize(weight, bits)  # type: ignore[arg-type]
        assert torch.equal(found.scale, found.scale.half().float())
        assert (found.scale > 0).all()
        assert not found.values[4:].any()
        worst = (found.dequantized() - weight).abs().amax(1)
        assert (worst[:3] <= weight[:3].abs().amax(1) / (2 * 100 if bits == 8 else 2)).all()


def test_int4_has_a_scale_per_group_and_never_more_error_than_the_full_range() -> None:
    torch.manual_seed(0)
    weight = torch.randn(9, 96)
    found = quantize(weight, 4)
    assert found.values.abs().max() <= 7
    assert found.scale.shape == (9, 3)
    groups = weight.unflatten(-1, (-1, 32))
    scale = (groups.abs().amax(-1, keepdim=True) / 7).bfloat16().half().float()
    plain = (torch.round(groups / scale).clamp(-7, 7) * scale).flatten(-2)
    error = [(x - weight).unflatten(-1, (-1, 32)).square().sum(-1) for x in (found.dequantized(), plain)]
    assert (error[0] <= error[1]).all()
    assert error[0].sum() < 0.97 * error[1].sum()  # clipping the ends pays


def test_int4_slices_take_whole_groups() -> None:
    space = RoutingSpace((32, 64), (32, 64), (1,))
    canet = random_canet(items=30, length=8, space=space)
    full = quantize_model(canet, 4).tensors["supernet.blocks.0.qkv_weight"]
    piece = Slice("supernet.blocks.0.qkv_weight", 32, 32, 64, part=1).of_integers(full)
    assert piece.bits == 4
    assert torch.equal(piece.values, full.values[1, :32, 32:64])
    assert torch.equal(piece.scale, full.scale[1, :32, 1:2])
    assert torch.equal(piece.dequantized(), full.dequantized()[1, :32, 32:64])
    per_row = Slice("supernet.item_table", 31, 32, 64)
    table = quantize_model(canet, 8).tensors["supernet.item_table"]
    assert torch.equal(per_row.of_integers(table).scale, table.scale)


def test_int4_needs_widths_in_groups() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    with pytest.raises(UsageError, match=r"groups of 32 columns, the model has a matrix of"):
        quantize_model(canet, 4)


def test_higher_precision_is_the_next_step_up() -> None:
    canet = random_canet(items=30, length=8, space=RoutingSpace((32,), (32,), (1, 2)), table="own")
    four = quantize_model(canet, 4, higher=frozenset({"supernet.item_table"})).tensors
    assert four["supernet.item_table"].bits == 8
    assert four["supernet.own_classifier"].bits == 4
    assert four["router.item_table"].bits == 8  # the router's own table is never 4 bits
    eight = quantize_model(canet, 8, higher=frozenset({"router.item_table"})).tensors
    assert "router.item_table" not in eight


def test_the_hash_tells_integers_apart() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    first, second = quantize_model(canet), quantize_model(canet)
    assert first.sha256 == second.sha256
    second.tensors["supernet.item_table"].values[0, 0] += 1
    assert quantize_model(random_canet(items=30, length=8, space=SPACE, seed=1)).sha256 != first.sha256
    assert IntegerModel(second.tensors).sha256 != first.sha256


def test_halves_are_halves_and_nothing_else_changes() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    found, folded = parameters(halved(canet)), parameters(fold_residuals(canet))
    for name, tensor in found.items():
        same = is_quantized(name, tensor)
        assert torch.equal(tensor, folded[name].half().float() if same else folded[name]), name


def test_a_model_with_nothing_to_quantize_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canet_mobile.model.integers.is_quantized", lambda *_: False)
    with pytest.raises(UsageError, match=r"no matrix that can be quantized(.|\n)*--quantize fp32"):
        quantize_model(random_canet(items=30, length=8, space=SPACE))
