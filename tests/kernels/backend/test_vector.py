"""Vector instructions in compiled loops, beside NumPy in a higher precision."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import (
    BYTES_PER_REGISTER,
    ROWS_PER_TILE,
    elementwise,
    multiply,
    multiply_routine,
    sigmoid,
    tanh,
)


@elementwise
def both(x):
    return sigmoid(x), tanh(x)


@njit
def activate(x, s, t):
    both(len(x), (x, 0, s, 0, t, 0))


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 2), (np.float64, 16)])
def test_activations_are_right_to_the_last_places(dtype, ulps):
    tiny = np.geomspace(1e-30, 1, 500)
    x = np.concatenate([np.linspace(-60, 60, 20_011), tiny, -tiny]).astype(dtype)
    s, t = np.empty_like(x), np.empty_like(x)
    activate(x, s, t)
    exact = x.astype(np.longdouble)
    for found, right in ((s, 1 / (1 + np.exp(-exact))), (t, np.tanh(exact))):
        assert np.all(np.abs(found - right) <= ulps * np.finfo(dtype).eps * np.abs(right))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_of_what_is_no_number_are_no_numbers(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30] * 5, dtype)  # in whole registers and after them
    s, t = np.empty_like(x), np.empty_like(x)
    activate(x, s, t)
    assert np.array_equal(np.isnan(s), np.isnan(x))
    assert np.array_equal(np.isnan(t), np.isnan(x))
    np.testing.assert_array_equal(t[1:5], [1, -1, 1, -1])
    np.testing.assert_allclose(s[1:5], [1, 0, 1, 0], atol=1e-37)


@njit
def call(routine, x, w, out, strides, sizes, add):
    x_at, x_row, x_inner, w_at, w_inner, out_at, out_row = strides
    rows, inner, columns = sizes
    multiply(
        routine, x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, columns, add
    )


LANES = BYTES_PER_REGISTER // 4
SIZES = [
    (rows, inner, columns)
    for rows in (1, 2, 3, 5, ROWS_PER_TILE, 2 * ROWS_PER_TILE + 3)
    for inner in (0, 1, 7)
    for columns in (1, 3, 4, LANES, 2 * LANES, 3 * LANES + 7)
]


@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_any_size_lies_anywhere_and_writes_nothing_else(dtype, add):
    generator = torch.Generator().manual_seed(1)
    for rows, inner, columns in SIZES:
        for transposed in (False, True):  # x as it is, or its transpose, in the memory
            shape = (inner, rows + 2) if transposed else (rows, inner + 2)
            x, w = (torch.randn(s, generator=generator, dtype=dtype) for s in (shape, (inner, columns + 3)))
            out = torch.randn((rows + 2, columns + 5), generator=generator, dtype=dtype)
            right = out.clone()
            matrix = x[:, 1 : rows + 1].T if transposed else x[:, 1 : inner + 1]
            right[1:-1, 2:-3] = matrix @ w[:, 3:] + add * right[1:-1, 2:-3]
            strides = (
                1,
                *((1, rows + 2) if transposed else (inner + 2, 1)),
                3,
                columns + 3,
                columns + 7,
                columns + 5,
            )
            flat = (y.view(-1).numpy() for y in (x, w, out))
            call(multiply_routine(dtype), *flat, strides, (rows, inner, columns), add)
            torch.testing.assert_close(out, right, rtol=0, atol=20 * torch.finfo(dtype).eps * inner)
