"""Peers to measure against, run from a checkout at a given path: their code is loaded, never part of this project."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


def load_module(checkout: Path, file: str, replace: dict[str, str] | None = None) -> types.ModuleType:
    """The module `file` of a peer's checkout; `replace` mends in memory what keeps it from running on any device."""
    path = checkout / file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the path of a checkout that holds {file}.")
    source = path.read_text()
    for old, new in (replace or {}).items():
        if old not in source:
            raise ValueError(
                f"{path} does not contain {old!r}: it is another version than the one measured here."
            )
        source = source.replace(old, new)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def antao97_dgcnn(checkout: Path, num_classes: int = 40, k: int = 20) -> nn.Module:
    """DGCNN for classification of antao97/dgcnn.pytorch; takes [B, 3, N]. Its index tensor is made on 'cuda' whatever
    the device of the points is: here it follows them."""
    module = load_module(checkout, "model.py", {"torch.device('cuda')": "x.device"})
    arguments = types.SimpleNamespace(k=k, emb_dims=1024, dropout=0.5)
    return module.DGCNN_cls(arguments, output_channels=num_classes)


def training_step(
    model: nn.Module, points: torch.Tensor, labels: torch.Tensor, amp: torch.dtype | None = None
) -> Callable[[], torch.Tensor]:
    """One step as peers train: forward, cross-entropy, backward, SGD with momentum. Returns a function of nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(points.device.type, dtype=amp, enabled=amp is not None):
            logits = model(points)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.2)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
