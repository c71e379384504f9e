"""The logits of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def predict(model: nn.Module, inputs: tuple[Tensor, ...], batch_size: int = 32) -> Tensor:
    """Logits [n, classes] of inputs [n, ...], in evaluation mode, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    batches = zip(*(value.split(batch_size) for value in inputs), strict=True)
    return torch.cat([model(*(value.to(device) for value in batch)).float().cpu() for batch in batches])
