"""Costs: paper MFLOPs, or a table measured on a device, and what is wrong with a bad table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_toys import small

from canet_mobile.data.dataset import Dataset
from canet_mobile.errors import CanetError
from canet_mobile.model.costs import paper_mflops, router_paper_mflops, sasrec_paper_mflops
from canet_mobile.routing.budget import average_mflops, spending_of
from canet_mobile.train.trainer import train

SPACE = small().space
HEAD = {"schema_version": 1, "kind": "costs_table", "unit": "ms"}


def table(path: Path, **changes) -> Path:
    """Milliseconds that grow with the route's id; ``changes`` replace keys of the document."""
    routes = {route.entry: 1.0 + number for number, route in enumerate(SPACE)}
    path.write_text(json.dumps(HEAD | {"router": 0.25, "routes": routes} | changes), encoding="utf-8")
    return path


def test_paper_costs_are_those_of_the_tables() -> None:
    found = spending_of(small(), 40)
    assert found.unit == "paper MFLOPs" and found.full == sasrec_paper_mflops(40, 8, 16, 2)
    assert found.routes.tolist() == [paper_mflops(40, 8, route) for route in SPACE]
    assert found.router == router_paper_mflops(8, len(SPACE))
    taken = np.array([0, 0, 7])
    assert found.average(taken) == pytest.approx(average_mflops(small(), 40, taken))
    assert found.allowed(0.5) == pytest.approx(0.5 * found.full - found.router)


def test_a_measured_table_is_read_by_entry_and_budgets_are_shares_of_its_largest_route(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "phone.json", unit="mJ")
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({**document, "routes": dict(reversed(document["routes"].items()))}), encoding="utf-8"
    )
    found = spending_of(small(costs=str(path)), 40)
    assert found.unit == "mJ" and found.routes.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (found.router, found.full) == (0.25, 8.0)
    assert found.allowed(0.5) == 3.75 and found.average(np.array([0, 7])) == 4.75


ENTRIES = {route.entry: 2.0 for route in SPACE}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(routes={}), "routes"),
        (dict(routes={"e8_h8_d1": 2.0}), "tells no cost of e8_h8_d2 (missing: 7 of 8 routes)"),
        (dict(routes={**ENTRIES, "e16_h8_d2": 0}), "routes.e16_h8_d2: 0 is less than or equal"),
        (dict(routes={**ENTRIES, "e16_h8_d2": -1.5}), "routes.e16_h8_d2: -1.5"),
        (dict(routes={**ENTRIES, "e16_h8_d2": "fast"}), "routes.e16_h8_d2: 'fast' is not of type 'number'"),
        (dict(routes={**ENTRIES, "e16_h8_d2": True}), "routes.e16_h8_d2: True is not of type 'number'"),
        (dict(routes={**ENTRIES, "e16_h8_d2": float("nan")}), "NaN is no JSON number"),
        (dict(routes={**ENTRIES, "e16_h8_d2": float("inf")}), "Infinity is no JSON number"),
        (dict(router=None), "router: None is not of type 'number'"),
        (dict(routes=[1, 2]), "routes: [1, 2] is not of type 'object'"),
        (dict(unit=3), "unit: 3 is not of type 'string'"),
        (dict(unit=""), "unit: '' should be non-empty"),
        (dict(kind="costs"), "kind: 'costs_table' was expected"),
        (dict(routes=ENTRIES), "every route that a router could choose costs 2 ms"),
    ],
)
def test_a_bad_table_is_refused_by_its_field_and_value(changes: dict, message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "phone.json", **changes)
    with pytest.raises(CanetError) as caught:
        spending_of(small(costs=str(path)), 40)
    text = str(caught.value)
    assert message in text and "phone.json" in text and "fix:" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such table"),
        ("route,ms\n", "not valid JSON"),
        ('{"schema_version": 1}', "is a required property"),
    ],
)
def test_training_refuses_a_table_it_cannot_read_before_it_begins(
    content: str | None, message: str, dataset: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "phone.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CanetError, match=rf"{message}[\s\S]*fix: canet-mobile replay PACKAGE --costs-out"):
        train(small(costs=str(path)), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_a_budget_in_milliseconds_is_kept(budget: float, dataset: Dataset, tmp_path: Path) -> None:
    path = table(tmp_path / "phone.json")
    run = train(small(epochs=1, costs=str(path), budget=budget), dataset, tmp_path / "run")
    found = run.manifest["routing"]
    assert found["budget_met"]
    saver, balanced, _ = (point["cost"] for point in found["operating_points"])
    assert balanced["unit"] == "ms" and saver["value"] <= balanced["value"] <= budget * 8.0
    routes = found["operating_points"][1]["routes"]
    average = sum(share * (1 + SPACE.id_of(SPACE.named(entry))) for entry, share in routes.items())
    assert balanced["value"] == pytest.approx(average + 0.25)
