"""The matrix of a linear map: a fused layer's `linear` may be any module that maps the last axis affinely.

It is an `nn.Linear`, a `TensorLinear`, a low-rank pair (`nn.Sequential` of two `nn.Linear`), a parametrized one, or a user's
own. Gradients go through the matrix to the module's parameters.

A module that is known by its calls alone is called once a step on zeros, the identity and two rows that test it: its hooks
and buffers see those and not the layer's input. Its matrix is (W I + b) - b, which loses digits where |b| is much larger
than |W|.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dropfold.models.layers.low_rank import Halves, LowRank
from dropfold.models.layers.tensor_linear import TensorLinear

MAX_ERROR = 0.1  # of an affine map, relative to its largest output: far above the rounding of bfloat16

# Modules that were found to be affine, each with the training modes of its parts in which it was.
_affine: WeakKeyDictionary[nn.Module, set[tuple[bool, ...]]] = WeakKeyDictionary()


class Affine(NamedTuple):
    """y = x weight^T + bias: weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None


def matrix_of(module: nn.Module, in_features: int | None = None) -> Affine:
    """The matrix and bias of a module that maps [..., in] to [..., out] affinely, differentiable.

    `in_features` is asked for of modules that do not have it as an attribute and are known by their calls. The matrix is
    made in the type of the weights: autocast is off, as coordinates may be what it is applied to.

    Raises:
        ValueError: the module is not affine, or how many features it takes is not known.
    """
    if is_nn_linear(module):
        return Affine(module.weight, module.bias)  # type: ignore[arg-type]
    device = _example(module).device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return matrix_of(module, in_features)
    if isinstance(module, TensorLinear) and _keeps_forward(module, TensorLinear):
        return Affine(module.weight.to_dense().T, module.bias)
    if isinstance(module, Halves) and _keeps_forward(module, Halves):
        return Affine(torch.block_diag(module.weight, module.weight), None)
    if _is_chain(module):
        assert isinstance(module, nn.Sequential)
        parts = [part for part in module if not isinstance(part, nn.Identity)]
        if parts:
            found = matrix_of(parts[0], in_features)
            for part in parts[1:]:
                found = _product(found, matrix_of(part, len(found.weight)))
            return found
    return _applied(module, in_features)


def is_nn_linear(module: nn.Module) -> bool:
    """Whether the module computes what nn.Linear does with its weight and bias."""
    return _keeps_forward(module, nn.Linear)


def product_is_cheaper(maps: nn.Module, rows: int) -> bool | None:
    """Whether the matrix of a chain of maps and one product cost fewer multiply-adds than the maps one after the other.

    A pair of rank r costs M r (in + out) over M rows; its matrix costs in r out, and then M in out. None for a module that
    is no `nn.Sequential` of maps whose cost is known.
    """
    if not _is_chain(maps):
        return None
    assert isinstance(maps, nn.Sequential)
    if len(maps) < 2:
        return None
    sizes = [size for size in map(_size, maps) if size is not None]
    if len(sizes) < len(maps):
        return None
    n_in, n_out = sizes[0][0], sizes[-1][1]
    product = sum(n_in * inner * out for inner, out, _ in sizes[1:])
    return product + rows * n_in * n_out < rows * sum(macs for _, _, macs in sizes)


def _is_chain(module: nn.Module) -> bool:
    """Whether a call of the module calls its parts one after the other."""
    return type(module) in (nn.Sequential, LowRank) and _keeps_forward(module, nn.Sequential)


def _keeps_forward(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a call of the module is `cls.forward` alone, as of the class itself and of parametrized modules.

    Forward pre-hooks make the weights of pruned, weight-normed and spectral-normed modules (torch.nn.utils.prune,
    weight_norm, spectral_norm): such a module has to be called.
    """
    return isinstance(module, cls) and type(module).forward is cls.forward and not module._forward_pre_hooks


def _example(module: nn.Module) -> Tensor:
    """A tensor of the type and device of the module's weights."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t for t in tensors if t.is_floating_point()), torch.empty(0))


def _size(module: nn.Module) -> tuple[int, int, int] | None:
    """Features in and out and multiply-adds a row of a linear map whose formula is known."""
    if is_nn_linear(module):
        n_out, n_in = module.weight.shape  # type: ignore[misc]
        return n_in, n_out, n_in * n_out
    if isinstance(module, Halves) and _keeps_forward(module, Halves):
        n_in, n_out = module.in_features, module.out_features
        return n_in, n_out, n_in * n_out // 2
    if isinstance(module, TensorLinear) and _keeps_forward(module, TensorLinear):
        n_in, n_out = module.in_features, module.out_features
        return n_in, n_out, min(module.weight.lowered_macs(), n_in * n_out)
    return None


def _product(first: Affine, second: Affine) -> Affine:
    """The map `first`, then `second`."""
    weight = second.weight.to(first.weight) @ first.weight
    bias = None if first.bias is None else second.weight.to(first.bias) @ first.bias
    if second.bias is not None:
        bias = second.bias if bias is None else bias + second.bias
    return Affine(weight, bias)


def _applied(module: nn.Module, in_features: int | None) -> Affine:
    """Of a module that is known by its calls alone."""
    size = getattr(module, "in_features", in_features)
    if size is None:
        raise ValueError(
            f"how many features {type(module).__name__} takes is not known; give it an attribute in_features."
        )
    like = _example(module)
    zeros = like.new_zeros(1, size)
    test = torch.arange(1, 2 * size + 1, device=like.device).to(like.dtype).sin().mul(4).view(2, size)
    # One call: spectral_norm changes its weight at each.
    rows = torch.cat([zeros, torch.eye(size, dtype=like.dtype, device=like.device), test])
    out = module(rows)
    if out.dim() != 2 or len(out) != len(rows):
        raise ValueError(
            f"a layer's linear map takes [..., {size}] to [..., out]; {type(module).__name__} made "
            f"{list(out.shape)} of {list(rows.shape)}."
        )
    offset, columns, tested = out.split([1, size, 2])
    found = Affine((columns - offset).T, offset[0])
    if not torch.compiler.is_compiling():
        modes = tuple(part.training for part in module.modules())  # Dropout is affine in evaluation alone
        passed = _affine.setdefault(module, set())
        if modes not in passed:
            _check_affine(module, found, test, tested)
            passed.add(modes)
    return found


@torch.no_grad()
def _check_affine(module: nn.Module, found: Affine, x: Tensor, given: Tensor) -> None:
    """Refuse a module that made `given` of x, if the matrix that was found makes something else of it."""
    weight, bias = found
    assert bias is not None
    expected = x @ weight.T + bias
    scale = max(1.0, float(expected.abs().max()))
    # Rounding of a sum of `in` products, with room; a map that is not affine is off by far more.
    error = min(1e3 * torch.finfo(weight.dtype).eps, MAX_ERROR)
    if not float((given - expected).abs().max()) <= error * scale:
        raise ValueError(
            f"a fused layer's linear map must be affine, y = x W^T + b, the same at each call; {type(module).__name__} is "
            "not. Run the layer in its plain form: `with unfused(network): ...`."
        )
