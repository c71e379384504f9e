"""Training steps of point-cloud networks, ours and the peers', from the same weights on the same data.

A step is forward, loss, backward and SGD with momentum; the loss is the same on both sides, PointNet's with its regulariser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import limits, peers, semseg
from benchmarks.harness import Case, replayed
from models import DGCNN, PointNet
from models.convert import load_antao97, load_yanx27

Network = Literal["pointnet", "dgcnn", "dgcnn_s3dis"]
PEER: dict[Network, str] = {"pointnet": "yanx27", "dgcnn": "antao97", "dgcnn_s3dis": "antao97"}


@dataclass(frozen=True)
class Setting:
    """One training step. `checkout` is the peer's; without it only ours is there."""

    network: Network
    clouds: int
    points: int
    k: int = 20
    dtype: str = "float32"
    device: str = "cpu"
    checkout: Path | None = None
    threads: int | None = None

    def __str__(self) -> str:
        k = "" if self.network == "pointnet" else f"-k{self.k}"
        threads = f"-threads{self.threads}" if self.threads else ""
        return f"B{self.clouds}-N{self.points}{k}{threads}"


class Side(NamedTuple):
    """A network, the logits [.., classes] in its output, what its loss adds, and whether it takes points as [B, C, N]."""

    model: nn.Module
    logits: Callable[[Any], Tensor]
    extra: Callable[[Any], Tensor] | None = None
    channels_first: bool = False


def side(setting: Setting, provider: str) -> Side:
    """Ours ("dropfold") or the peer, with the same weights where the peer is there."""
    torch.manual_seed(0)
    checkout, k = setting.checkout, setting.k
    ours: Any
    if setting.network == "pointnet":
        if checkout is None:
            ours = PointNet(40)
        else:
            peer, extra = peers.yanx27_pointnet(checkout)
            if provider != "dropfold":
                return Side(peer, lambda output: output[0], extra, True)
            ours = load_yanx27(peer.state_dict())
        return Side(ours, lambda output: output, lambda _: 0.001 * ours.regularization())
    if setting.network == "dgcnn":
        if checkout is None:
            return Side(DGCNN(40, k=k), lambda output: output)
        peer = peers.antao97(checkout, k=k)
        if provider != "dropfold":
            return Side(peer, lambda output: output, None, True)
        return Side(load_antao97(peer.state_dict(), k), lambda output: output)
    if checkout is None:
        return Side(semseg.SceneDGCNN(k=k), lambda output: output)
    peer = peers.antao97(checkout, "DGCNN_semseg_s3dis", k, None)
    if provider != "dropfold":
        return Side(peer, lambda output: output.transpose(1, 2), None, True)
    return Side(semseg.load_antao97(peer.state_dict(), k), lambda output: output)


def data(setting: Setting) -> tuple[Tensor, Tensor]:
    """Random points in the unit cube [B, N, 3] with a label each; for scenes [B, N, 9], and a label for each point."""
    generator = torch.Generator().manual_seed(0)
    size, scenes = (setting.clouds, setting.points), setting.network == "dgcnn_s3dis"
    x = torch.rand(*size, 9 if scenes else 3, generator=generator)
    labels = torch.randint(13 if scenes else 40, size if scenes else size[:1], generator=generator)
    return x.to(setting.device), labels.to(setting.device)


def training_step(setting: Setting, chosen: Side) -> Callable[[], Any]:
    """The step, on the number of threads asked for."""
    x, labels = data(setting)
    amp = None if setting.dtype == "float32" else getattr(torch, setting.dtype)

    def loss(output: Any, labels: Tensor) -> Tensor:
        found = peers.smoothed_cross_entropy(chosen.logits(output).flatten(0, -2), labels.flatten())
        return found if chosen.extra is None else found + chosen.extra(output)

    points = x.transpose(1, 2).contiguous() if chosen.channels_first else x
    step = peers.training_step(chosen.model.to(setting.device), points, labels, amp, loss)
    threads = setting.threads
    if threads is None:
        return step

    def on_threads() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            step()
        finally:
            torch.set_num_threads(before)

    return on_threads


def make(setting: Setting, provider: str) -> Callable[[], Any]:
    """What is timed. "NAME compiled" is through torch.compile, "NAME graph" one replayed CUDA graph."""
    name, _, how = provider.partition(" ")
    chosen = side(setting, name)
    if how == "compiled":
        chosen.model.compile()
    step = training_step(setting, chosen)
    return replayed(step) if how == "graph" else step


def cases(setting: Setting, operation: str, more: tuple[str, ...] = ()) -> list[Case]:
    """Ours first, then the peer where its checkout is given, then `more` providers."""
    providers = ["dropfold", *([PEER[setting.network]] if setting.checkout else []), *more]
    return [
        Case(operation, name, str(setting), setting.dtype, partial(make, setting, name)) for name in providers
    ]


def limited(setting: Setting) -> list[Case]:
    """The cases, and the limits of ours."""
    chosen = side(setting, "dropfold")
    step = training_step(setting, chosen)
    step()
    least = limits.least_of_training(step, list(chosen.model.parameters()))
    return limits.with_limits(cases(setting, f"{setting.network}_step"), least, setting.device, step)


def distance(setting: Setting) -> float:
    """How far the log-probabilities of the two sides are from each other, relative to their spread: a training forward from
    the same weights, without dropout, in float64 on a CPU, where rounding is too small to move a neighbour."""
    setting = replace(setting, points=min(setting.points, 256), device="cpu")
    x, found = data(setting)[0].double(), []
    for provider in ("dropfold", PEER[setting.network]):
        chosen = side(setting, provider)
        for module in chosen.model.double().train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            output = chosen.model(x.transpose(1, 2).contiguous() if chosen.channels_first else x)
            found.append(chosen.logits(output).log_softmax(-1))
    ours, theirs = found
    return float((ours - theirs).norm() / (theirs - theirs.mean(0)).norm())
