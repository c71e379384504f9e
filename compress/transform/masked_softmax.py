"""BMSoftmax: a softmax over the valid transitions alone (NAT++, Guo et al. 2021)."""

from __future__ import annotations

from torch import Tensor

RELEASED_FLOOR = 1e-5  # what the authors' code adds to each probability


def masked_softmax(logits: Tensor, valid: Tensor, *, released: bool = False) -> Tensor:
    """p_i = m_i exp(z_i) / sum_j m_j exp(z_j) of logits z [.., n] and `valid` m [.., n].

    Probability and gradient are 0 where m is.

    With `released` as the authors' code has it: 1e-5 is added to each valid probability, and the sum is no longer 1.

    Raises:
        ValueError: nothing is valid somewhere, or `valid` is no mask of the shape of the logits.
    """
    if valid.shape != logits.shape or valid.dtype.is_floating_point:
        raise ValueError(
            f"valid must be a mask of the logits' shape {list(logits.shape)}; got {valid.dtype} {list(valid.shape)}."
        )
    valid = valid.bool()
    if not valid.any(-1).all():
        raise ValueError("a row of valid has no valid transition.")
    p = logits.masked_fill(~valid, float("-inf")).softmax(-1)
    return (p + RELEASED_FLOOR).masked_fill(~valid, 0) if released else p
