"""Products through oneDNN equal ATen's, whichever library this processor is given."""

from __future__ import annotations

import pytest
import torch

from dropfold.kernels.backend import gemm as _gemm


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(_gemm, "wide", lambda: True)


@pytest.mark.parametrize("rows", [1, 1023, 1024, 2049])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_equal_float64(rows: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, y, w = torch.randn(rows, 70), torch.randn(rows, 33), torch.randn(33, 70)
        wide = x.double(), y.double(), w.double()
        # n roundings by 6e-8 of sums that grow as sqrt(n): standard deviation 4e-8 n; ten of them.
        torch.testing.assert_close(_gemm.mm(x, w.T).double(), wide[0] @ wide[2].T, rtol=0, atol=4e-7 * 70)
        torch.testing.assert_close(_gemm.mm(y, w).double(), wide[1] @ wide[2], rtol=0, atol=4e-7 * 33)
        torch.testing.assert_close(_gemm.gram(x, y).double(), wide[0].T @ wide[1], rtol=0, atol=4e-7 * rows)
    finally:
        torch.set_num_threads(before)


def test_strided_and_transposed_operands() -> None:
    x, y = torch.randn(70, 2048).T, torch.randn(2048, 66)[:, ::2]
    torch.testing.assert_close(_gemm.gram(x, y), x.T @ y, rtol=0, atol=4e-7 * 2048)
    torch.testing.assert_close(_gemm.mm(x.T, y), x.T @ y, rtol=0, atol=4e-7 * 2048)


def test_a_weight_that_is_a_slice_of_columns_reaches_onednn_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows that lie apart oneDNN has its reference alone: a thousand times slower."""
    given, product = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda *a: given.extend(a[:2]) or product(*a), raising=False
    )
    x, weight = torch.randn(2048, 64), torch.randn(64, 128)[:, :64]
    torch.testing.assert_close(_gemm.linear(x, weight), x @ weight.T, rtol=0, atol=4e-7 * 64)
    assert len(given) == 2
    assert all(t.is_contiguous() or t.T.is_contiguous() for t in given)


def test_the_same_product_twice_is_the_same_bits() -> None:
    x, y = torch.randn(4096, 64), torch.randn(4096, 64)
    assert torch.equal(_gemm.gram(x, y), _gemm.gram(x, y))
    assert torch.equal(_gemm.mm(x, y.T), _gemm.mm(x, y.T))


def test_linear_and_its_gradients_are_pytorchs() -> None:
    x, weight, bias = torch.randn(5, 700, 66), torch.randn(70, 66), torch.randn(70)
    gradient = torch.randn(5, 700, 70)
    found = []
    for function, dtype in ((_gemm.linear, torch.float32), (torch.nn.functional.linear, torch.float64)):
        inputs = [t.detach().clone().to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = function(*inputs)
        y.backward(gradient.to(dtype))
        found.append([y.detach(), *(t.grad for t in inputs)])
    for mine, right, summed in zip(*found, (66, 70, 3500, 3500)):
        assert mine is not None
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=4e-7 * summed)


def test_linear_asks_for_no_gradient_that_nobody_needs() -> None:
    x, weight = torch.randn(2048, 64), torch.randn(64, 64, requires_grad=True)
    _gemm.linear(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_other_types_are_left_to_aten() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        x = torch.randn(2048, 64, dtype=dtype)
        assert torch.equal(_gemm.gram(x, x), x.T @ x)
        assert _gemm.mm(x, x.T).dtype == dtype


def test_a_compiled_graph_never_asks_which_library_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is in a file, and torch.compile cannot trace the reading of one."""

    def asked() -> bool:
        raise AssertionError

    monkeypatch.setattr(_gemm, "wide", asked)
    x, y = torch.randn(2048, 16), torch.randn(2048, 16)
    torch._dynamo.reset()

    def run(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _gemm.mm(x.T, y), _gemm.gram(x, y)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a in compiled(x, y):
        torch.testing.assert_close(a, x.T @ y, rtol=0, atol=4e-7 * 2048)
