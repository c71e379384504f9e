"""What a network is called with: its arguments, and which sample each row belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.describe import describe

Given = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


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
        """A tensor, a tuple of arguments, or a mapping of their names; `batch` where the network has no argument of that
        name and takes rows.

        Raises:
            TypeError: the first argument is no tensor, or the arguments do not fit the network.
            ValueError: there is no sample, or a number that is not finite.
        """
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(given, Mapping):
            kwargs = dict(given)
        else:
            args = tuple(given) if isinstance(given, tuple | list) else (given,)
        name = type(network).__name__
        try:
            bound = inspect.signature(network.forward).bind(*args, **kwargs).arguments
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
        found = bound.get("batch", batch)
        if found is None and x.dim() == 2 and hasattr(network, "in_channels"):
            found = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # a single cloud in rows
        samples = len(x)
        if found is not None:
            size = bound.get("batch_size")
            samples = int(size) if size is not None else int(found[-1]) + 1 if len(found) else 0
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
