"""What a network is called with: its arguments, and which sample each row belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.points.clouds import batch_to_ptr
from dropfold.models import NETWORKS

Given = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
TAKE_ROWS = tuple(kind for known in NETWORKS.values() for kind in (known.classification, known.segmentation))


@dataclass(frozen=True)
class Inputs:
    """The arguments of a call; x, the first of them; batch [M], the sample of each row, None where x is dense [B, ..]."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x: Tensor
    batch: Tensor | None
    samples: int

    @classmethod
    def of(cls, network: nn.Module, given: Given, batch: Tensor | None = None) -> Inputs:
        """A tensor, a tuple of arguments, or a mapping of their names; `batch` of rows goes to the network, too, if it has
        an argument of that name.

        Raises:
            TypeError: the first argument is no tensor, or the arguments do not fit the network.
            ValueError: there is no sample, a number that is not finite, or a batch that does not go with rows.
        """
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(given, Mapping):
            kwargs = dict(given)
        else:
            args = tuple(given) if isinstance(given, tuple | list) else (given,)
        args, kwargs = tuple(map(_for_autograd, args)), {k: _for_autograd(v) for k, v in kwargs.items()}
        name, signature = type(network).__name__, inspect.signature(network.forward)
        if batch is not None and "batch" in list(signature.parameters)[1:]:
            if "batch" in kwargs:
                raise ValueError(
                    "batch is among the inputs and stands beside them; leave one of the two out."
                )
            kwargs["batch"] = batch
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name} cannot be called with these inputs: {error}.") from None
        x = next(iter(bound.values()), None)
        if not isinstance(x, Tensor) or x.dim() < 2:
            got = describe(x) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise TypeError(f"the first of the inputs must be a tensor, a batch of samples; got {got}.")
        for place, value in bound.items():
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                first = (~value.isfinite()).nonzero()[0].tolist()
                raise ValueError(
                    f"{place} has a number that is not finite, first at {first}; a score of it says nothing. Mend or leave "
                    "out that sample."
                )
        own = {
            name: value for name, value in bound.items() if value is not x
        }  # which may be called batch itself
        found, samples = own.get("batch", batch), len(x)
        if found is None and x.dim() == 2 and isinstance(network, TAKE_ROWS):
            found = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # a single cloud in rows
        if found is not None:
            rows = [x] if isinstance(network, TAKE_ROWS) else list(bound.values())
            samples = _count(found, rows, bound.get("batch_size"))
            found = found.to(x.device, torch.int64)
        if not samples:
            raise ValueError(f"there is no sample in the inputs: {describe(x)}.")
        return cls(args, kwargs, x, found, samples)

    @property
    def clouds(self) -> dict[str, Any]:
        """The keyword arguments of layers that pool over clouds."""
        return {"batch": self.batch, "batch_size": self.samples} if self.batch is not None else {}

    def per_sample(self, rows: Tensor) -> list[Tensor]:
        """Values of rows [M, ..] by sample, or of a dense batch one entry a sample."""
        if self.batch is None or len(rows) != len(self.batch):
            return list(rows)
        return list(rows.split(torch.bincount(self.batch, minlength=self.samples).tolist()))

    def add_up(self, values: Tensor) -> Tensor:
        """The sum of values [B, ..] or rows [M, ..] over each sample: [B]."""
        flat = values.flatten(1).sum(1) if values.dim() > 1 else values
        if self.batch is None or len(flat) != len(self.batch):
            per = len(flat) // self.samples  # as of centres in rows: as many of each sample
            return flat.view(self.samples, per).sum(1)
        return flat.new_zeros(self.samples).index_add(0, self.batch, flat)


def _for_autograd(value: Any) -> Any:
    """A copy of a tensor that was made in inference mode, which no gradient may go through; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _count(batch: Any, inputs: list[Any], size: int | None) -> int:
    """How many samples `batch` counts; ValueError if it is not sorted, or none of the inputs has as many rows."""
    if not isinstance(batch, Tensor):
        raise ValueError(f"batch must be a tensor, the sample of each row; got a {type(batch).__name__}.")
    count = len(batch_to_ptr(batch.cpu(), size)) - 1
    tensors = [value for value in inputs if isinstance(value, Tensor) and value is not batch]
    if not any(len(value) == len(batch) and value.dim() > 1 for value in tensors):
        raise ValueError(
            f"batch has the sample of each of {len(batch)} rows, and the inputs have not as many: "
            f"{', '.join(map(describe, tensors))}. Leave it out of dense clouds [B, N, C]."
        )
    return count
