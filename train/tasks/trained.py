"""The trained network of a run's folder, and a network's predictions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dropfold.train.config.configs import Config, Signature
from dropfold.train.storage import checkpoint


def load_network(run: Path) -> tuple[Config, Signature, nn.Module]:
    """The config, the signature and the trained network of a run's folder, on the GPU if there is one."""
    from safetensors.torch import load_file

    from dropfold.train.tasks.registry import task_of  # tasks use `predict`

    config, signature = checkpoint.load_config(run)
    path = run / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the run has not ended; continue it with --resume {run}."
        )
    model = task_of(config).build(config, signature)
    model.load_state_dict(load_file(path))
    return config, signature, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
