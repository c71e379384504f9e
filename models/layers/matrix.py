"""The matrix of a linear map: a fused layer's `linear` may be any module that maps the last axis affinely.

It is an `nn.Linear`, a `TensorLinear`, a low-rank pair (`nn.Sequential` of two `nn.Linear`), a parametrized one, or a user's
own. Gradients go through the matrix to the module's parameters.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dropfold.models.layers.tensor_linear import TensorLinear

_affine: WeakSet[nn.Module] = WeakSet()  # modules that were found to be affine


class Affine(NamedTuple):
    """y = x weight^T + bias: weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None


def matrix_of(module: nn.Module, in_features: int | None = None) -> Affine:
    """The matrix and bias of a module that maps [..., in] to [..., out] affinely, differentiable.

    `in_features` is asked for of modules that do not have it as an attribute: they are applied to the identity and to zero.

    Raises:
        ValueError: the module is not affine, or how many features it takes is not known.
    """
    if type(module) is nn.Linear or _keeps_forward(module, nn.Linear):
        return Affine(module.weight, module.bias)  # type: ignore[arg-type]
    if isinstance(module, TensorLinear) and type(module).forward is TensorLinear.forward:
        return Affine(module.weight.to_dense().T, module.bias)
    if isinstance(module, nn.Sequential) and type(module) is nn.Sequential:
        parts = [part for part in module if not isinstance(part, nn.Identity)]
        if parts:
            found = matrix_of(parts[0], in_features)
            for part in parts[1:]:
                found = _product(found, matrix_of(part, len(found.weight)))
            return found
    return _applied(module, in_features)


def is_nn_linear(module: nn.Module) -> bool:
    """Whether the module computes what nn.Linear does with its weight and bias."""
    return type(module) is nn.Linear or _keeps_forward(module, nn.Linear)


def product_is_cheaper(chain: nn.Module, rows: int) -> bool | None:
    """Whether the matrix of a chain of maps and one product cost fewer multiply-adds than the maps one after the other.

    A pair of rank r costs M r (in + out) over M rows; its matrix costs in r out, and then M in out. None for a module that
    is no `nn.Sequential` of maps whose cost is known.
    """
    if type(chain) is not nn.Sequential or len(chain) < 2:
        return None
    sizes = [size for size in map(_size, chain) if size is not None]
    if len(sizes) < len(chain):
        return None
    n_in, n_out = sizes[0][0], sizes[-1][1]
    product = sum(n_in * inner * out for inner, out, _ in sizes[1:])
    return product + rows * n_in * n_out < rows * sum(macs for _, _, macs in sizes)


def _keeps_forward(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether the module is of a subclass that did not change `forward`, as parametrized modules are."""
    return isinstance(module, cls) and type(module).forward is cls.forward


def _size(module: nn.Module) -> tuple[int, int, int] | None:
    """Features in and out and multiply-adds a row of a linear map whose formula is known."""
    if is_nn_linear(module):
        n_out, n_in = module.weight.shape  # type: ignore[misc]
        return n_in, n_out, n_in * n_out
    if isinstance(module, TensorLinear) and type(module).forward is TensorLinear.forward:
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
    """Of a module that is known by its outputs alone."""
    size = getattr(module, "in_features", in_features)
    if size is None:
        raise ValueError(
            f"how many features {type(module).__name__} takes is not known; give it an attribute in_features."
        )
    like = next(
        (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.empty(0)
    )
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    offset = module(identity.new_zeros(1, size))
    if offset.dim() != 2 or len(offset) != 1:
        raise ValueError(
            f"a layer's linear map takes [..., {size}] to [..., out]; {type(module).__name__} made "
            f"{list(offset.shape)} of [1, {size}]."
        )
    found = Affine((module(identity) - offset).T, offset[0])
    if module not in _affine and not torch.compiler.is_compiling():
        _check_affine(module, found)
        _affine.add(module)
    return found


@torch.no_grad()
def _check_affine(module: nn.Module, found: Affine) -> None:
    weight, bias = found
    assert bias is not None
    x = torch.arange(1, 2 * weight.shape[1] + 1, device=weight.device).to(weight.dtype).sin()
    x = 4 * x.view(2, -1)
    expected, given = x @ weight.T + bias, module(x)
    scale = max(1.0, float(expected.abs().max()))
    # Rounding of a sum of `in` products, with room; a map that is not affine is off by far more.
    if not float((given - expected).abs().max()) <= 1e3 * torch.finfo(weight.dtype).eps * scale:
        raise ValueError(
            f"a fused layer's linear map must be affine, y = x W^T + b, the same at each call; {type(module).__name__} is "
            "not. Run the layer in its plain form: `with unfused(network): ...`."
        )
