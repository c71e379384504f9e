"""What the implementations of ball_query share: constants and empty outputs."""

from __future__ import annotations

import torch


def _limit(radius: float, dtype: torch.dtype) -> float:
    """The largest squared distance, rounded as squared distances are."""
    return float(torch.tensor(radius * radius, dtype=dtype))
