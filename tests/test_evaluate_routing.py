"""The references that routing is measured against."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canet_mobile.evaluate import routing

COSTS = np.array([1.0, 2.0, 4.0, 8.0])


def test_best_fixed_never_costs_more_than_the_budget() -> None:
    quality = np.array([0.1, 0.5, 0.2, 0.9])
    assert routing.best_fixed(COSTS, quality, 8.0) == routing.Mixture(3, 3, 0.0)
    mixture = routing.best_fixed(COSTS, quality, 5.0)
    assert (mixture.cheap, mixture.dear, mixture.share) == (1, 3, 0.5)
    assert mixture.weights() == {1: 0.5, 3: 0.5}
    assert routing.best_fixed(COSTS, quality, 0.5) == routing.Mixture(0, 0, 0.0)


def test_a_single_route_is_preferred_on_ties() -> None:
    assert routing.best_fixed(COSTS, np.full(4, 0.3), 3.0).weights() == {0: 1.0}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(1, 10),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0, 1),
)
def test_no_affordable_mixture_of_two_is_better(qualities, budget, first, second, share) -> None:
    quality = np.array(qualities)
    found = routing.best_fixed(COSTS, quality, budget)
    assert found.expected(COSTS) <= budget + 1e-9
    other = routing.Mixture(first, second, share)
    if other.expected(COSTS) <= budget:
        assert found.expected(quality) >= other.expected(quality) - 1e-9


def test_random_routing_is_the_exact_expectation() -> None:
    generator = np.random.default_rng(0)
    per_route = generator.random((3, 50))
    counts = np.array([10, 0, 40])
    expected = [0.2 * per_route[0, n] + 0.8 * per_route[2, n] for n in range(50)]
    np.testing.assert_allclose(routing.random_routing(per_route, counts), expected)
    # Every assignment with the same histogram averages to it.
    ids = np.repeat(np.arange(3), counts)
    drawn = [per_route[generator.permutation(ids), np.arange(50)].mean() for _ in range(3000)]
    assert np.mean(drawn) == pytest.approx(np.mean(expected), abs=1e-3)


def test_histogram_and_entropy() -> None:
    counts = routing.histogram(np.array([0, 2, 2, 0]), 4)
    assert counts.tolist() == [2, 0, 2, 0]
    assert routing.normalised_entropy(counts) == pytest.approx(0.5)
    assert routing.normalised_entropy(np.array([3, 3, 3])) == pytest.approx(1)
    assert routing.normalised_entropy(np.array([0, 7])) == 0
    assert routing.normalised_entropy(np.array([7])) == 0


def test_paired_difference() -> None:
    gap = routing.paired(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert gap == {"value": 0.25, "se": pytest.approx(0.25)}
    assert not routing.is_better(gap)
    assert routing.is_better({"value": 0.3, "se": 0.1})
    assert not routing.is_better({"value": 0.0, "se": 0.0})
    assert routing.is_worse({"value": -0.3, "se": 0.1})
