"""Reading an ExecuTorch program back: every constant at a place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from replay_toys import ITEMS, LENGTH, toy_canet, write_package

from canet_mobile.model.canet import Canet
from canet_mobile.model.router import Router, RouterConfig
from canet_mobile.model.space import RoutingSpace
from canet_mobile.model.supernet import Supernet, SupernetConfig
from canet_mobile.package.package import open_package
from canet_mobile.replay.reference import exported_job

pytest.importorskip("executorch")

from canet_export.executorch import stored

CANET = toy_canet()


def test_a_constant_of_both_stores_needs_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(100, 164))
    constants = [
        stored.Constant("e8_h8_d1", "table.0.weight", True, data),
        stored.Constant("e8_h8_d1", "classifier.0.weight", False, data),
        stored.Constant("e8_h8_d1", "bias", False, data[:16]),
    ]
    monkeypatch.setattr(stored, "expected_constants", lambda *_: constants)

    def failures(constants: bytes) -> list[str]:
        program = b"\0\0\0\0ET12" + constants
        opened = open_package(write_package(tmp_path / "package", CANET, program))
        return [
            failure.tensor
            for failure in stored.check_stored(opened.directory, exported_job(opened, CANET)).failures
        ]

    assert failures(data + b"\0" * 8 + data + data[:16]) == []
    assert failures(data + b"\0" * 8 + data) == ["bias"]
    assert failures(data + data[:16] + b"\0" * 8) == ["classifier.0.weight"]


def test_a_tied_table_is_expected_in_both_stores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = RoutingSpace((32,), (32,), (1, 2))
    supernet = Supernet(SupernetConfig(ITEMS, LENGTH, space, tied=True))
    tied = Canet(supernet, Router(RouterConfig(ITEMS, LENGTH, len(space)))).eval()
    opened = open_package(write_package(tmp_path / "package", tied))
    table = supernet.item_table.detach().numpy().tobytes()
    stores = [c.is_table for c in stored.expected_constants(exported_job(opened, tied)) if c.data == table]
    assert sorted(stores) == [False, True]
