"""The trained network of a run's folder, and a network's predictions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from train import checkpoint
from train.config import Config, Signature


def load_network(run: Path) -> tuple[Config, Signature, nn.Module]:
    """The config, the signature and the trained network of a run's folder, on the GPU if there is one."""
    from safetensors.torch import load_file

    from train.tasks import task_of  # tasks use `predict`

    config, signature = checkpoint.load_config(run)
    path = run / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the run has not ended; continue it with --resume {run}."
        )
    model = task_of(config).build(config, signature)
    model.load_state_dict(load_file(path))
    return config, signature, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@torch.no_grad()
def predict(model: nn.Module, inputs: tuple[Tensor, ...], batch_size: int = 32) -> Tensor:
    """Logits [n, classes] of inputs [n, ...], in evaluation mode, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    batches = zip(*(value.split(batch_size) for value in inputs), strict=True)
    return torch.cat([model(*(value.to(device) for value in batch)).float().cpu() for batch in batches])
