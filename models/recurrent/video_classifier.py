"""A classifier of video clips: frames into an RNN, its last state into classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.inputs import check_tensors


class VideoClassifier(nn.Module):
    """Logits of clips from the last hidden state of an RNN over their frames.

    Args:
        rnn: a TensorLSTM or TensorGRU with `batch_first`, whose input is a flattened frame.
        classes: number of classes.
        dropout: of the last state.
        mean, std: pixels, as numbers from 0 to 1, are seen as (pixel - mean) / std. For uint8 frames this happens inside the
            first product; they are never stored as floats.
    """

    def __init__(
        self, rnn: nn.Module, classes: int, *, dropout: float = 0.0, mean: float = 0.5, std: float = 0.25
    ) -> None:
        super().__init__()
        if not rnn.batch_first:
            raise ValueError("VideoClassifier feeds [B, T, ..]: make the RNN with batch_first=True.")
        self.rnn, self.mean, self.std = rnn, mean, std
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self._directions() * int(rnn.hidden_size), classes)  # type: ignore[arg-type]

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of frames [B, T, ..], uint8 or floating point in [0, 1]; `lengths` int64 [B]."""
        check_tensors(frames=frames)
        if frames.dim() < 3:
            raise ValueError(f"frames must be [B, T, ..], as [B, T, H, W, C]; got {list(frames.shape)}.")
        unit = 255.0 if frames.dtype == torch.uint8 else 1.0
        _, state = self.rnn(
            frames.flatten(2), lengths=lengths, scale=1 / (unit * self.std), shift=-self.mean / self.std
        )
        h: Any = state[0] if isinstance(state, tuple) else state
        return self.head(self.dropout(torch.cat(list(h[-self._directions() :]), -1)))

    def _directions(self) -> int:
        return 2 if self.rnn.bidirectional else 1
