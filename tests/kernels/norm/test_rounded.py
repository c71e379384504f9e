"""Products in 8 bits beside NumPy, which rounds, multiplies integers and scales back."""

import numpy as np
import pytest
import torch

from dropfold.kernels import Groups, edge_conv, group_mlp_max, knn, linear_norm_act, linear_norm_pool
from dropfold.kernels.norm import rounded
from tests.kernels.cases import batch_norm

# Rows, channels in and out: few rows, which have a loop of their own; odd and single channels; more than a block and a pass.
SIZES = [(1, 3, 4), (7, 1, 1), (60, 33, 67), (101, 64, 256), (49, 256, 130), (0, 5, 3)]
# A sum of integers is exact; what is left are a few roundings to float32, relative to the largest number.
ERROR = {"rtol": 1e-5, "atol": 1e-5}


def fixed(channels):
    norm = batch_norm(channels, training=False, dtype=torch.float32)
    return norm._replace(gamma=norm.gamma.detach(), beta=norm.beta.detach())


def doubled(norm):
    return norm._replace(**{name: getattr(norm, name).double() for name in ("gamma", "beta", "mean", "var")})


def by_numpy(x):
    """(integers, scales) of the rows of x."""
    top = np.abs(x).max(1, keepdims=True)
    factor = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    return np.rint(x * factor).astype(np.int64), (top / np.float32(127)).astype(np.float64)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product_is_that_of_integers_and_within_its_bound(size):
    rows, k, n = size
    x, weight, bias = torch.randn(rows, k), torch.randn(n, k), torch.randn(n)
    matrix = rounded.round_matrix(weight)
    y = rounded.linear(x, matrix, bias)
    if not rows:
        assert y.shape == (0, n)
        return
    (x_of, s), (w_of, t) = by_numpy(x.numpy()), by_numpy(weight.numpy())
    assert np.array_equal(w_of, matrix.integers.numpy())
    exact = (x_of @ w_of.T) * s * t.T + bias.double().numpy()
    np.testing.assert_allclose(y.numpy(), exact, **ERROR)
    bound = k * s * t.T * (127 + 0.25)
    error = np.abs(exact - (x.double() @ weight.double().T + bias).numpy())
    assert (error <= bound * (1 + 1e-6)).all()


@pytest.mark.parametrize("size", SIZES[2:5], ids=str)
def test_layers_are_those_of_rounded_numbers(size):
    rows, k, n = size
    x, weight, bias, norm = torch.randn(2, rows, k), torch.randn(n, k), torch.randn(n), fixed(n)
    matrix, options = rounded.round_matrix(weight), {"negative_slope": 0.2}
    numbers = rounded.round_rows(x).double(), matrix.to_float().double(), bias.double(), doubled(norm)
    pairs = [
        (rounded.linear_norm_act(x, matrix, bias, norm, **options), linear_norm_act(*numbers, **options)),
        *zip(
            rounded.linear_norm_pool(x, matrix, bias, norm, **options),
            linear_norm_pool(*numbers, **options),
            strict=True,
        ),
    ]
    for ours, exact in pairs:
        np.testing.assert_allclose(ours.numpy(), exact.numpy(), **ERROR)


def test_an_edge_conv_is_that_of_rounded_points():
    x, weight, norm = torch.randn(2, 50, 17), torch.randn(70, 34), fixed(70)
    matrix, idx = rounded.round_matrix(weight), knn(x, 8)
    exact = edge_conv(
        rounded.round_rows(x).double(),
        idx,
        matrix.to_float().double(),
        None,
        doubled(norm),
        negative_slope=0.2,
    )
    ours = rounded.edge_conv(x, idx, matrix, None, norm, negative_slope=0.2)
    np.testing.assert_allclose(ours.numpy(), exact.numpy(), **ERROR)


def test_a_perceptron_on_groups_is_that_of_rounded_entries():
    """Its first layer is not rounded; two further ones of odd widths are. The second is fed integers that either side may
    round up or down at a half, so a few entries may be a step apart."""
    q, p, widths = torch.randn(30, 9), torch.randn(6, 9), (21, 40)
    groups = Groups(torch.tensor([0, 4, 4, 60, 61, 90, 100]), torch.randint(30, (100,)))
    weights = [torch.randn(b, a) for a, b in zip((9, *widths), widths)]
    norms, biases = [fixed(c) for c in (9, *widths)], [torch.randn(c) for c in (9, *widths)]
    matrices = [rounded.round_matrix(weight) for weight in weights]
    ours = rounded.group_mlp_max(q, p, groups, matrices, norms, biases)

    def act(y, i):
        scale = norms[i].gamma / (norms[i].var + norms[i].eps).sqrt()
        return ((y + biases[i] - norms[i].mean) * scale + norms[i].beta).relu()

    owner = torch.repeat_interleave(groups.ptr.diff())
    z = act(q[groups.idx] + p[owner], 0)
    for i, matrix in enumerate(matrices, 1):
        z = act(rounded.round_rows(z) @ matrix.to_float().T, i)
    expected = torch.stack(
        [z[owner == g].amax(0) if (owner == g).any() else z.new_zeros(40) for g in range(6)]
    )
    apart = (ours - expected).abs() / expected.abs().max()
    assert float((apart > 1e-5).float().mean()) < 0.05
    assert float(apart.max()) < 0.05
    exact = group_mlp_max(q, p, groups, weights, norms, biases)
    assert float((ours - exact).norm() / exact.norm()) < 0.02


def test_a_row_depends_on_itself_alone():
    """NaN, infinity, zeros and huge numbers in some rows, and the others to the bit."""
    x, matrix = torch.randn(60, 20), rounded.round_matrix(torch.randn(30, 20))
    before = rounded.linear(x, matrix)
    x[3, 4], x[17, 0], x[40] = torch.nan, -torch.inf, 0
    x[50], x[51] = 1e30, 1e-37
    after = rounded.linear(x, matrix)
    assert after[[3, 17]].isnan().all()
    assert not after[[40, 51]].any()
    others = [i for i in range(60) if i not in (3, 17, 40, 50, 51)]
    assert torch.equal(after[others], before[others])
    assert rounded.linear(x[:5], matrix).isnan().any(1).tolist() == [False, False, False, True, False]


def test_extreme_rows_use_all_their_bits():
    """The largest sums that there are, of +-127 times 254: no overflow."""
    x = torch.ones(30, 4096)
    matrix = rounded.Rounded(torch.full((20, 4096), 127, dtype=torch.int8), torch.ones(20))
    assert rounded.linear(x, matrix).unique().tolist() == pytest.approx([127 * 4096])
    idx = torch.zeros(1, 30, 1, dtype=torch.int64)
    integers = torch.cat([torch.full((20, 2048), -127), torch.full((20, 2048), 127)], 1).to(torch.int8)
    norm = fixed(20)._replace(
        gamma=torch.ones(20), beta=torch.zeros(20), mean=torch.zeros(20), var=torch.ones(20)
    )
    y = rounded.edge_conv(x[None, :, :2048], idx, rounded.Rounded(integers, torch.ones(20)), None, norm)
    assert y.unique().tolist() == pytest.approx([(254 - 127) * 2048], rel=1e-4)  # BatchNorm adds its epsilon


REFUSED = {
    "float64": (lambda x, m, norm: rounded.linear(x.double(), m), "float32 on the CPU"),
    "gradient": (lambda x, m, norm: rounded.linear(x.requires_grad_(), m), "no gradient"),
    "channels": (lambda x, m, norm: rounded.linear(x[:, 1:], m), "must have 20 channels"),
    "training": (
        lambda x, m, norm: rounded.linear_norm_act(x, m, None, norm._replace(training=True)),
        "training mode was asked for",
    ),
    "argmax": (
        lambda x, m, norm: rounded.linear_norm_pool(x, m, None, norm, return_argmax=True), "return_argmax was asked for"
    ),
    "NaN": (lambda x, m, norm: rounded.round_matrix(x * torch.nan), "NaN or infinity"),
    "inputs": (lambda x, m, norm: rounded.round_matrix(torch.zeros(1, (1 << 16) + 1)), "1 to 65,536 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_8_bits_do_not_have_is_refused(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        call(torch.randn(30, 20), rounded.round_matrix(torch.randn(10, 20)), fixed(10))
