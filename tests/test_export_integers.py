"""One integer supernet: integers of the full tensors, positive scales, slices of both."""

from __future__ import annotations

import torch
from conftest import random_canet, random_histories

from canet_export.graph import Slice
from canet_export.integers import dequantized, fold_residuals, parameters, quantize, quantize_model
from canet_mobile.model.space import RoutingSpace

SPACE = RoutingSpace((8, 16), (8, 16), (1, 2))


def test_integers_are_symmetric_and_scales_positive() -> None:
    weight = torch.randn(5, 7)
    weight[2] = 0
    weight[3] *= 1e-30
    found = quantize(weight)
    assert found.values.dtype == torch.int8
    assert found.values.abs().max() == 127
    assert found.scale.shape == (5, 1)
    assert (found.scale > 0).all()
    assert not found.values[2:4].any()
    assert ((found.dequantized() - weight).abs() <= found.scale / 2 + 1e-9).all()


def test_slices_take_the_integers_and_scales_of_the_full_tensor() -> None:
    canet = random_canet(items=30, length=8, space=SPACE)
    found = quantize_model(canet).tensors["supernet.blocks.1.qkv_weight"]
    piece = Slice("supernet.blocks.1.qkv_weight", 8, 0, 8, part=2)
    assert torch.equal(piece.of(found.values), found.values[2, :8, :8])
    assert torch.equal(piece.of(found.scale), found.scale[2, :8])
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
