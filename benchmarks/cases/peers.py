"""Peers to measure against: loaded from a checkout at a given path, or imported where they are installed; never part of
this project (docs/benchmarks.md says how to install them)."""

from __future__ import annotations

import hashlib
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from dropfold.models.formats import FormatSpec


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
    # torch.compile looks in sys.modules for what a function calls: each checkout and mended form has its name.
    own = hashlib.sha256(f"{path.resolve()}\n{source}".encode()).hexdigest()[:12]
    module = types.ModuleType(f"peer_{path.stem}_{own}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def antao97(checkout: Path, network: str = "DGCNN_cls", k: int = 20, classes: int = 40) -> nn.Module:
    """A network of antao97/dgcnn.pytorch: DGCNN_cls, DGCNN_partseg, or DGCNN_semseg_s3dis (its classes are 13). Takes
    [B, C, N]. Its index tensor is made on 'cuda' whatever the device of the points is: here it follows them."""
    module = load_module(checkout, "model.py", {"torch.device('cuda')": "x.device"})
    arguments = types.SimpleNamespace(k=k, emb_dims=1024, dropout=0.5)
    return getattr(module, network)(arguments, *(() if network == "DGCNN_semseg_s3dis" else (classes,)))


def yanx27(
    checkout: Path, network: str = "pointnet_cls", classes: int = 40
) -> tuple[nn.Module, Callable[[Any], torch.Tensor] | None]:
    """A network of yanx27/Pointnet_Pointnet2_pytorch without normals, and what PointNet's loss adds for an output of it.

    Takes [B, C, N] and returns the logarithm of the softmax, and for PointNet the feature transforms. Its farthest point
    sampling begins at a random point, in float32: here at the first, in the points' type, so that both sides compute the
    same.
    """
    module = types.ModuleType("models.pointnet2_utils")
    if network.startswith("pointnet2"):
        mended = {
            "torch.randint(0, N, (B,), dtype=torch.long)": "torch.zeros((B,), dtype=torch.long)",
            "torch.ones(B, N)": "torch.ones(B, N, dtype=xyz.dtype)",
        }
        module = load_module(checkout, "models/pointnet2_utils.py", mended)
    shared = load_module(checkout, "models/pointnet_utils.py")
    names = {"pointnet_utils": shared, "pointnet2_utils": module, "models.pointnet2_utils": module}
    with mock.patch.dict(sys.modules, names):
        module = load_module(checkout, f"models/{network}.py")
    options = {} if network.endswith(("sem_seg", "sem_seg_msg")) else {"normal_channel": False}
    model = module.get_model(classes, **options)
    if network.startswith("pointnet2"):
        return model, None
    scale = module.get_loss().mat_diff_loss_scale
    return model, lambda output: scale * shared.feature_transform_reguliarzer(output[1].float())


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The usual loss of DGCNN's recipes."""
    return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.2)


def training_step(
    model: nn.Module,
    points: torch.Tensor | tuple[torch.Tensor, ...],
    labels: torch.Tensor,
    amp: torch.dtype | None = None,
    loss_of: Callable[[Any, torch.Tensor], torch.Tensor] = smoothed_cross_entropy,
    lr: float = 0.01,
) -> Callable[[], torch.Tensor]:
    """One step as peers train: forward, loss, backward, SGD with momentum. Returns a function of nothing.

    `points` are the network's inputs.
    """
    inputs = points if isinstance(points, tuple) else (points,)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(labels.device.type, dtype=amp, enabled=amp is not None):
            output = model(*inputs)
        loss = loss_of(output, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def tednet_lstm(spec: FormatSpec) -> nn.Module:
    """tednet's LSTM of a format (TT, TR, BT), a dense hidden matrix, without its dropout; takes x and a state [B, H] twice.

    Its constructors change the lists that they are given and print what they save; both end here.
    """
    import contextlib
    import io

    from tednet.tnn import bt_tucker, tensor_ring, tensor_train

    modes, d, e = (list(spec.in_modes), list(spec.out_modes)), len(spec.in_modes), len(spec.out_modes)
    number = {"tt": d - 1, "tr": d + e, "bt": d}[spec.format]
    ranks = list(spec.ranks) if len(spec.ranks) > 1 else list(spec.ranks) * number
    blocks = [spec.blocks] if spec.format == "bt" else []
    made = {"tt": tensor_train.TTLSTM, "tr": tensor_ring.TRLSTM, "bt": bt_tucker.BTTLSTM}[spec.format]
    with contextlib.redirect_stdout(io.StringIO()):
        return made(*modes, ranks, *blocks, drop_ih=0.0, drop_hh=0.0)


class TensorlyLSTM(nn.Module):
    """An LSTM cell around tensorly-torch's FactorizedLinear (TT or CP), a dense hidden matrix, frame by frame."""

    def __init__(self, spec: FormatSpec) -> None:
        super().__init__()
        from tltorch import FactorizedLinear

        first, *others = spec.out_modes
        hidden = first * math.prod(others)
        kind, rank = {
            "tt": ("blocktt", [1, *spec.ranks * (len(spec.in_modes) - 1), 1]),
            "cp": ("cp", spec.ranks[0]),
        }[spec.format]
        self.ih = FactorizedLinear(spec.in_modes, (4 * first, *others), factorization=kind, rank=rank)
        self.hh = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        h, c = state
        outs = []
        for frame in x:
            i, f, g, o = (self.ih(frame) + self.hh(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outs.append(h)
        return torch.stack(outs), (h, c)
