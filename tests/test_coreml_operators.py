"""The interpreter's operators: exact where they can be, strict where NumPy is not, in need of no PyTorch."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from canet_mobile.replay.mil.interpreter import rounded
from canet_mobile.replay.mil.operators import OPERATORS, erf, gelu, layer_norm, topk

NAN = float("nan")


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def best(x: np.ndarray, k: int, *, ascending: bool = False) -> tuple[list[float], list[int]]:
    values, ids = topk(x, k, -1, ascending, True, True, "int32")
    assert (values.dtype, ids.dtype) == (x.dtype, np.int32)
    return values.tolist(), ids.tolist()


def test_rounding_is_numpys_at_every_fp16_number_and_between_them() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    bits = halves.view(np.uint32)
    for step in (0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF):  # 0x1000: half of the way, where the even one is due
        numbers = (bits + np.uint32(step)).view(np.float32)
        for part in (numbers, numbers[np.abs(numbers) < 2**15]):  # with and without the slow way
            with np.errstate(all="ignore"):
                expected = part.astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(rounded(part, "fp16"), expected)
    below = np.arange(0, 2**-13, 2**-27, np.float32)  # fp16's subnormal numbers, eight steps for each
    for part in (below, -below):
        np.testing.assert_array_equal(rounded(part, "fp16"), part.astype(np.float16).astype(np.float32))


def test_erf_and_gelu_are_as_near_as_float32_allows() -> None:
    x = np.linspace(-10, 10, 20_001, dtype=np.float32)
    exact = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(erf(x) - exact).max() < 4.5e-7
    smooth = np.array([0.5 * v * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])
    assert np.abs(gelu(x, "EXACT") - smooth).max() < 1.5e-6
    assert gelu(floats(-100, 100), "EXACT").tolist() == [0, 100]


def test_layer_norm_is_float64s() -> None:
    x = np.random.default_rng(0).normal(3, 2, (1, 7, 96)).astype(np.float32)
    gamma, beta = np.random.default_rng(1).normal(size=(2, 96)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    found = layer_norm(x, [-1], gamma, beta, 1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected * gamma + beta, atol=3e-6)


def test_the_lower_index_comes_first_on_ties_and_is_kept_at_the_cut() -> None:
    x = floats(1, 3, 2, 3, 2, 3, 2)
    assert best(x, 4) == ([3, 3, 3, 2], [1, 3, 5, 2])
    assert best(x, 3, ascending=True) == ([1, 2, 2], [0, 2, 4])
    generator = np.random.default_rng(0)
    for rows in generator.integers(-20, 20, (50, 2, 300)).astype(np.float32):
        order = np.argsort(-rows, axis=-1, kind="stable")[:, :20]
        assert best(rows, 20) == (np.take_along_axis(rows, order, -1).tolist(), order.tolist())


def test_a_list_shows_nan_first() -> None:
    values, ids = best(floats(1, NAN, 5, NAN, 2), 3)
    assert ids == [1, 3, 2]
    assert np.isnan(values).tolist() == [True, True, False]
    assert best(floats(1, NAN, 5), 3, ascending=True)[1] == [0, 2, 1]


def scatter(data: np.ndarray, indices: Any, updates: np.ndarray) -> Any:
    return OPERATORS["scatter_along_axis"].run(
        data=data, indices=np.array(indices), updates=updates, axis=1, mode="update", validate_indices=False
    )


def gather(indices: Any) -> Any:
    return OPERATORS["gather"].run(
        x=np.eye(3), indices=np.array(indices), axis=0, batch_dims=0, validate_indices=False
    )


def test_scatter_leaves_what_it_was_given() -> None:
    data = floats(1, 2, 3)[None]
    assert scatter(data, [[2, 0]], floats(7, 8)[None]).tolist() == [[8, 2, 7]]
    assert data.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda: gather([0, -1]), IndexError, "-1 to 0 are not all of 0 to 2"),
        (lambda: gather([3]), IndexError, "not all of 0 to 2"),
        (lambda: gather([2**31 - 1]), IndexError, "not all of 0 to 2"),
        (lambda: scatter(np.zeros((1, 3)), [[-1]], np.ones((1, 1))), IndexError, "not all of 0 to 2"),
        (lambda: scatter(np.zeros((2, 3)), [[1]], np.ones((1, 1))), ValueError, r"into \[2, 3\]"),
        (lambda: scatter(np.zeros((1, 3)), [[1, 2]], np.ones((1, 1))), ValueError, r"into \[1, 3\]"),
        (
            lambda: OPERATORS["split"].run(x=np.ones((1, 5)), split_sizes=[2, 2], axis=1),
            ValueError,
            r"5 numbers in parts of \[2, 2\]",
        ),
        (
            lambda: OPERATORS["reduce_argmax"].run(
                x=floats(1, NAN)[None], axis=1, keep_dims=False, output_dtype="int32"
            ),
            ValueError,
            "of NaN",
        ),
        (lambda: OPERATORS["cast"].run(x=np.ones(3), dtype="uint8"), NotImplementedError, "cast to uint8"),
        (lambda: best(floats(1, 2), 3), ValueError, "kth"),
    ],
)
def test_what_numpy_would_let_pass_is_refused(
    run: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run()


def test_nothing_of_it_needs_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import canet_mobile.replay.mil.interpreter, canet_mobile.replay.runtimes.coreml\n"
        "import canet_mobile.replay.device"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
