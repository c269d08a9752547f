"""A user's own length: the same answer from fewer positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_canet, random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_export.graph import build_graphs
from canet_export.job import Job
from canet_export.lengths import LEAST_SAVED, choose_lengths, parse_lengths, route_at_lengths
from canet_mobile.errors import CanetError, UsageError
from canet_mobile.model.costs import executed_mflops
from canet_mobile.model.integers import fold_residuals
from canet_mobile.model.points import POINTS
from canet_mobile.model.space import RoutingSpace
from canet_mobile.package.lengths import entry_at, held, shortest

SPACE = RoutingSpace((16, 32), (8, 16), (1, 2, 3))
LENGTH = 12


def job(lengths: tuple[int, ...] = (), **options: object) -> Job:
    canet = random_canet(items=60, length=LENGTH, space=SPACE)
    return Job(canet, None, "fp32", SPACE.routes, 5, lengths=lengths, **options)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("seen", ["keep", "exclude"])
def test_every_graph_answers_alike_at_every_length_that_holds_the_history(seen: str) -> None:
    model = fold_residuals(job().canet)
    lengths = (1, 4, 7, LENGTH)
    graphs = build_graphs(model, SPACE.routes, 5, seen, lengths)  # type: ignore[arg-type]
    for seq in random_histories(12, 60, LENGTH).to(torch.int32):
        for length in [n for n in lengths[:-1] if n >= held(seq.numpy())]:
            newest = seq[None, -length:]
            for route in SPACE.routes:
                scores, ids = graphs[entry_at(route.entry, length, LENGTH)](newest)
                expected, wanted = graphs[route.entry](seq[None])
                torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
                assert torch.equal(ids, wanted)
            for point in range(len(POINTS)):
                given = torch.tensor([point], dtype=torch.int32)
                found = graphs[entry_at("router", length, LENGTH)](newest, given)
                assert torch.equal(found, graphs["router"](seq[None], given))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True), st.integers(0, 60))
def test_the_shortest_length_that_holds_a_history_is_taken(lengths: list[int], items: int) -> None:
    ascending = sorted(lengths)
    found = shortest(ascending, items)
    assert found in ascending
    fitting = [length for length in ascending if length >= items]
    assert found == (min(fitting) if fitting else max(ascending))


def test_a_history_is_held_from_its_oldest_item_on() -> None:
    assert [held(np.array(seq, np.int32)) for seq in ([0, 0, 0], [0, 0, 7], [0, 5, 0], [1, 2, 3])] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("auto", None),
        ("50", (50,)),
        ("8,16,50", (8, 16, 50)),
        ("8,16", (8, 16, 50)),
        ("8, 16, 32", (8, 16, 32, 50)),
    ],
)
def test_lengths_are_read_as_typed(text: str, lengths: tuple[int, ...] | None) -> None:
    assert parse_lengths(text, 50) == lengths


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list of numbers"),
        ("8,,16", "no list of numbers"),
        ("short", "no list of numbers"),
        ("16,8", "ascend"),
        ("8,8", "ascend"),
        ("0,8", "ascend"),
        ("-1", "ascend"),
        ("8,51", "has 50 positions"),
        ("4,8,16,32", "3 shorter ones at most"),
    ],
)
def test_lengths_that_are_none_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_lengths(text, 50)
    assert "--lengths auto" in str(caught.value)


@pytest.mark.parametrize("lengths", [(8, 4, LENGTH), (4, 8), (LENGTH, LENGTH), (4, LENGTH + 1)])
def test_a_job_refuses_lengths_that_do_not_ascend_to_the_model_s(lengths: tuple[int, ...]) -> None:
    with pytest.raises(CanetError, match="do not ascend to 12"):
        job(lengths)


def histories(sizes: list[int], length: int) -> np.ndarray:
    seqs = np.random.default_rng(0).integers(1, 60, (len(sizes), length)).astype(np.int32)
    return seqs * (np.arange(length) >= length - np.array(sizes)[:, None])


def long_job(items: int = 60) -> Job:
    canet = random_canet(items=items, length=50, space=SPACE)
    return Job(canet, None, "fp32", SPACE.routes, 5)


def test_auto_takes_the_lengths_that_cost_the_users_least() -> None:
    chosen = choose_lengths(long_job(), histories([3] * 50 + [20] * 30 + [50] * 20, 50))
    assert chosen == (4, 20, 50)


def test_auto_takes_none_where_nearly_everybody_is_long() -> None:
    assert choose_lengths(long_job(), histories([50] * 20, 50)) == (50,)
    assert choose_lengths(long_job(), histories([3] + [50] * 40, 50)) == (50,)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_auto_is_never_dearer_and_each_length_saves_its_share(sizes: list[int]) -> None:
    model, seqs = long_job(), histories(sizes, 50)
    chosen = choose_lengths(model, seqs)
    assert chosen[-1] == 50 and len(chosen) <= 4 and list(chosen) == sorted({*chosen})
    if len(chosen) > 1:  # a single one that saved nothing would not have been begun with
        largest = SPACE.largest
        full = executed_mflops(60, 50, largest)
        assert executed_mflops(60, chosen[0], largest) < (1 - LEAST_SAVED) * full


def test_the_manifest_s_costs_are_those_of_fewer_positions() -> None:
    with_lengths = replace(job(), lengths=(4, 8, LENGTH))
    number = len(SPACE) - 1
    rows = route_at_lengths(with_lengths, number)
    assert [row["length"] for row in rows] == [4, 8]
    assert [row["executed_mflops"] for row in rows] == [
        executed_mflops(60, length, SPACE.routes[number]) for length in (4, 8)
    ]
