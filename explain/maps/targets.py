"""Which logit is explained: of a class, and where points are labelled, of which of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.inputs import Inputs


def choose(
    logits: Tensor, target: int | Tensor | None, points: int | Tensor | None, inputs: Inputs
) -> tuple[Tensor, Tensor]:
    """`(classes [B], weight)`: the explained logit of each sample is the sum of weight * logits over it.

    Of labelled points it is the mean over the chosen ones.
    """
    of_points = logits.dim() == 3 or (
        inputs.batch is not None and len(logits) == len(inputs.batch) != inputs.samples
    )
    if points is not None and not of_points:
        raise ValueError("points= is for networks that label points; this one gives a logit a class.")
    k = logits.shape[-1]
    share = torch.ones_like(logits[..., 0])
    if of_points:
        share = _share(points, share, inputs)
    if target is None:
        mean = (
            [(part * w[:, None]).sum(0) for part, w in _pairs(logits, share, inputs)] if of_points else logits
        )
        classes = torch.stack(list(mean)).argmax(-1)
    else:
        try:
            classes = torch.as_tensor(target, device=logits.device)
        except (TypeError, ValueError, RuntimeError):  # a name, say
            classes = torch.tensor(math.nan)
        if (
            classes.dtype == torch.bool
            or classes.is_floating_point()
            or classes.dim() > 1
            or classes.numel() not in (1, inputs.samples)
        ):
            raise ValueError(
                f"target must be the number of a class, or int [{inputs.samples}], one for each of the {inputs.samples} "
                f"samples; got {target!r}."
            )
        classes = classes.long().expand(inputs.samples) if classes.dim() == 0 else classes.long()
        classes = classes.expand(inputs.samples)
        if not 0 <= int(classes.min()) <= int(classes.max()) < k:
            wrong = int(classes[(classes < 0) | (classes >= k)][0])
            raise ValueError(f"target must be a class from 0 to {k - 1}; got {wrong}.")
    one_hot = nn.functional.one_hot(classes, k).to(logits.dtype)
    if logits.dim() == 3:
        one_hot = one_hot[:, None]
    elif of_points:
        one_hot = one_hot[inputs.batch]
    return classes, one_hot * share[..., None]


def _share(points: int | Tensor | None, ones: Tensor, inputs: Inputs) -> Tensor:
    """1 / (number of chosen points) for each of them and 0 for the others."""
    chosen = torch.zeros_like(ones, dtype=torch.bool)
    if points is None:
        chosen[:] = True
    elif isinstance(points, Tensor) and points.dtype == torch.bool and points.shape == ones.shape:
        chosen = points.to(ones.device)
    elif isinstance(points, int) and not isinstance(points, bool):
        sizes = [len(part) for part in inputs.per_sample(ones)]
        if not 0 <= points < min(sizes):
            raise ValueError(
                f"points must number one of the {min(sizes)} points that each cloud has; got {points}."
            )
        if inputs.batch is None:
            chosen[:, points] = True
        else:
            first = torch.tensor([0, *sizes[:-1]], device=ones.device).cumsum(0)
            chosen[first + points] = True
    else:
        got = f"{list(points.shape)} {points.dtype}" if isinstance(points, Tensor) else repr(points)
        raise ValueError(
            f"points must be the number of one, or bool {list(ones.shape)} of those that count; got {got}."
        )
    parts = inputs.per_sample(chosen)
    if empty := [i for i, part in enumerate(parts) if not bool(part.any())]:
        raise ValueError(f"points chooses none of sample {empty[0]}; leave that sample out.")
    share = [part.to(ones.dtype) / part.sum() for part in parts]
    return torch.stack(share) if inputs.batch is None else torch.cat(share)


def _pairs(logits: Tensor, share: Tensor, inputs: Inputs) -> Any:
    return zip(inputs.per_sample(logits), inputs.per_sample(share))
