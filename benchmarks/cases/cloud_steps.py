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

from benchmarks.cases import limits, peers
from benchmarks.harness import Case, replayed
from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
)
from dropfold.models.convert import load_antao97, load_yanx27

Network = Literal[
    "pointnet", "pointnet2_ssg", "pointnet2_msg", "dgcnn",
    "pointnet_parts", "pointnet2_parts", "dgcnn_parts", "pointnet_scenes", "pointnet2_scenes", "dgcnn_s3dis",
]  # fmt: skip


class Task(NamedTuple):
    """A network with its data: classes, channels, whether each point has a label (or each cloud), categories (0: none).

    `peer` and `name` are its repository and file there, `k` the neighbours of a point in its graph, `least` how many points
    it needs.
    """

    peer: str
    name: str
    ours: Callable[..., nn.Module]
    classes: int = 40
    channels: int = 3
    pointwise: bool = True
    categories: int = 0
    k: int | None = None
    least: int = 256


PARTS: dict[str, Any] = {"classes": 50, "categories": 16}
SCENES: dict[str, Any] = {"classes": 13, "channels": 9}
TASKS: dict[Network, Task] = {
    "pointnet": Task("yanx27", "pointnet_cls", PointNet, pointwise=False),
    "pointnet2_ssg": Task("yanx27", "pointnet2_cls_ssg", PointNet2, pointwise=False, least=512),
    "pointnet2_msg": Task(
        "yanx27", "pointnet2_cls_msg", partial(PointNet2, grouping="msg"), pointwise=False, least=512
    ),
    "dgcnn": Task("antao97", "DGCNN_cls", DGCNN, pointwise=False, k=20),
    "pointnet_parts": Task("yanx27", "pointnet_part_seg", PointNetSegmentation, **PARTS),
    "pointnet2_parts": Task(
        "yanx27", "pointnet2_part_seg_msg", partial(PointNet2Segmentation, grouping="msg"), **PARTS, least=512
    ),
    "dgcnn_parts": Task("antao97", "DGCNN_partseg", DGCNNSegmentation, **PARTS, k=40),
    "pointnet_scenes": Task("yanx27", "pointnet_sem_seg", PointNetSegmentation, **SCENES),
    "pointnet2_scenes": Task("yanx27", "pointnet2_sem_seg", PointNet2Segmentation, **SCENES, least=1024),
    "dgcnn_s3dis": Task("antao97", "DGCNN_semseg_s3dis", DGCNNSegmentation, **SCENES, k=20),
}
LOOPING = (
    "pointnet2"  # networks of this name, of the peers, loop over centres: a compiler takes minutes for them
)
PEER: dict[Network, str] = {network: task.peer for network, task in TASKS.items()}


@dataclass(frozen=True)
class Setting:
    """One training step. `checkout` is the peer's; without it only ours is timed. k: None is the network's own."""

    network: Network
    clouds: int
    points: int
    k: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    checkout: Path | None = None
    threads: int | None = None

    @property
    def neighbours(self) -> int | None:
        """k, if the network has a graph."""
        own = TASKS[self.network].k
        return own if own is None or self.k is None else self.k

    def __str__(self) -> str:
        k = f"-k{self.neighbours}" if self.neighbours else ""
        threads = f"-threads{self.threads}" if self.threads else ""
        return f"B{self.clouds}-N{self.points}{k}{threads}"


class Side(NamedTuple):
    """A network, and how to use it: its logits [.., classes] of its output, what is added to its loss, and whether it is the
    peer's, which takes points as [B, C, N] and categories as features [B, 1, categories]."""

    model: nn.Module
    logits: Callable[[Any], Tensor]
    extra: Callable[[Any], Tensor] | None = None
    foreign: bool = False


def side(setting: Setting, provider: str) -> Side:
    """Ours ("dropfold") or the peer's, with the same weights if its checkout is given."""
    torch.manual_seed(0)
    task, k = TASKS[setting.network], setting.neighbours
    load: Any = load_yanx27 if task.peer == "yanx27" else partial(load_antao97, k=k)
    if setting.checkout is None:
        ours = task.ours(task.classes, task.channels, **_options(task, k))
    elif task.peer == "yanx27":
        peer, extra = peers.yanx27(setting.checkout, task.name, task.classes)
        if provider != "dropfold":
            return Side(peer, lambda output: output[0], extra, True)
        ours = load(peer.state_dict())
    else:
        peer = peers.antao97(setting.checkout, task.name, k or 0, task.classes)
        if provider != "dropfold":
            last = (lambda output: output.transpose(1, 2)) if task.pointwise else (lambda output: output)
            return Side(peer, last, None, True)
        ours = load(peer.state_dict())
    regularization = getattr(ours, "regularization", None)
    extra = None if regularization is None else lambda _: 0.001 * regularization()
    return Side(ours, lambda output: output, extra)


def _options(task: Task, k: int | None) -> dict[str, Any]:
    return ({"categories": task.categories} if task.categories else {}) | ({} if k is None else {"k": k})


def data(setting: Setting) -> tuple[tuple[Tensor, ...], Tensor]:
    """Random points in the unit cube [B, N, C], for parts with a category each, and a label for each cloud or point."""
    generator, task = torch.Generator().manual_seed(0), TASKS[setting.network]
    size = (setting.clouds, setting.points)
    x = torch.rand(*size, task.channels, generator=generator).to(setting.device)
    shape = size if task.pointwise else size[:1]
    labels = torch.randint(task.classes, shape, generator=generator).to(setting.device)
    if not task.categories:
        return (x,), labels
    category = torch.randint(task.categories, size[:1], generator=generator)
    return (x, category.to(setting.device)), labels


def inputs(setting: Setting, chosen: Side, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Points and categories in the form that this side takes."""
    if not chosen.foreign:
        return given
    x, *category = given
    features = (nn.functional.one_hot(c, TASKS[setting.network].categories)[:, None].to(x) for c in category)
    return x.transpose(1, 2).contiguous(), *features


def training_step(setting: Setting, chosen: Side) -> Callable[[], Any]:
    """The step, on the number of threads asked for."""
    given, labels = data(setting)
    amp = None if setting.dtype == "float32" else getattr(torch, setting.dtype)

    def loss(output: Any, labels: Tensor) -> Tensor:
        value = peers.smoothed_cross_entropy(chosen.logits(output).flatten(0, -2), labels.flatten())
        return value if chosen.extra is None else value + chosen.extra(output)

    step = peers.training_step(
        chosen.model.to(setting.device), inputs(setting, chosen, given), labels, amp, loss
    )
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
    """The step of a provider. "NAME compiled" is through torch.compile, "NAME graph" one replayed CUDA graph."""
    name, _, how = provider.partition(" ")
    chosen = side(setting, name)
    if how == "compiled":
        chosen.model.compile()
    step = training_step(setting, chosen)
    return replayed(step) if how == "graph" else step


def cases(setting: Setting, operation: str, more: tuple[str, ...] = ()) -> list[Case]:
    """Ours first, then the peer if its checkout is given, then `more` providers."""
    providers = ["dropfold", *([PEER[setting.network]] if setting.checkout else []), *more]
    return [
        Case(operation, name, str(setting), setting.dtype, partial(make, setting, name)) for name in providers
    ]


def limited(setting: Setting) -> list[Case]:
    """The cases, on a CPU the peer through inductor too, and the limits of ours."""
    peer = PEER[setting.network]
    compiled = (
        setting.checkout is not None and setting.device == "cpu" and not setting.network.startswith(LOOPING)
    )
    chosen = side(setting, "dropfold")
    step = training_step(setting, chosen)
    step()
    least = limits.least_of_training(step, list(chosen.model.parameters()))
    more = (f"{peer} compiled",) if compiled else ()
    return limits.with_limits(cases(setting, f"{setting.network}_step", more), least, setting.device, step)


def distance(setting: Setting) -> float:
    """How far the log-probabilities of the two sides are from each other, relative to their spread: a training forward from
    the same weights, without dropout, in float64 on a CPU, where rounding is too small to move a neighbour."""
    task = TASKS[setting.network]
    setting = replace(setting, points=min(setting.points, task.least), device="cpu")
    x, *category = data(setting)[0]
    log_probabilities = []
    for provider in ("dropfold", task.peer):
        chosen = side(setting, provider)
        for module in chosen.model.double().train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            output = chosen.model(*inputs(setting, chosen, (x.double(), *category)))
            log_probabilities.append(chosen.logits(output).log_softmax(-1))
    ours, theirs = (logits.flatten(0, -2) for logits in log_probabilities)
    return float((ours - theirs).norm() / (theirs - theirs.mean(0)).norm())
