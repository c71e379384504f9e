"""PointNet++ for segmentation (Qi et al. 2017, figure 2): down to few centres, and back up by interpolation.

    parts    x [B, N, 3] -> sa1: 512 centres -> sa2: 128 -> sa3: all -> fp3 -> fp2 -> fp1 (beside the category and x)
             -> head 128 -> parts
    scenes   x [B, N, 9] -> sa1: 1024 centres -> sa2: 256 -> sa3: 64 -> sa4: 16 -> fp4 -> fp3 -> fp2 -> fp1
             -> head 128 -> classes

Parameters, as yanx27/Pointnet_Pointnet2_pytorch has them: for 50 parts in 16 categories 1,411,250 (SSG) and 1,740,958
(MSG), for 13 classes of scenes 968,269 (SSG) and 1,883,269 (MSG). As there, the first level's features hold the
coordinates as well, and scenes have no level over all points: their last level is over balls of 0.8 m.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models.clouds.inputs import check_points
from dropfold.models.clouds.pointnet2 import (
    CLASSIFICATION,
    FeaturePropagation,
    GlobalAbstraction,
    Grouping,
    Level,
    Points,
    Scale,
    SetAbstraction,
    draw_noise,
    levels,
)
from dropfold.models.layers.linear_norm import LinearNormAct, one_hot
from dropfold.models.layers.noise import place_noise
from dropfold.models.layers.wiring import Sources, Wiring, chain, perceptron

LAYERS = {"parts": ("sa1", "sa2", "pool"), "scenes": ("sa1", "sa2", "sa3", "pool")}
PARTS: dict[str, tuple[Level, ...]] = {
    "ssg": CLASSIFICATION["ssg"],
    "msg": (
        Level(512, (Scale(0.1, 32, (32, 32, 64)), Scale(0.2, 64, (64, 64, 128)), Scale(0.4, 128, (64, 96, 128)))),
        Level(128, (Scale(0.4, 64, (128, 128, 256)), Scale(0.8, 128, (128, 196, 256)))),
    ),
}  # fmt: skip
SCENES: dict[str, tuple[Level, ...]] = {
    "ssg": (
        Level(1024, (Scale(0.1, 32, (32, 32, 64)),)),
        Level(256, (Scale(0.2, 32, (64, 64, 128)),)),
        Level(64, (Scale(0.4, 32, (128, 128, 256)),)),
        Level(16, (Scale(0.8, 32, (256, 256, 512)),)),
    ),
    "msg": (
        Level(1024, (Scale(0.05, 16, (16, 16, 32)), Scale(0.1, 32, (32, 32, 64)))),
        Level(256, (Scale(0.1, 16, (64, 64, 128)), Scale(0.2, 32, (64, 96, 128)))),
        Level(64, (Scale(0.2, 16, (128, 196, 256)), Scale(0.4, 32, (128, 196, 256)))),
        Level(16, (Scale(0.4, 16, (256, 256, 512)), Scale(0.8, 32, (256, 384, 512)))),
    ),
}


class PointNet2Segmentation(nn.Module):
    """PointNet++ with an output a point.

    Args:
        num_classes: outputs of a point.
        in_channels: 3, or more: the first three are coordinates.
        categories: None for scenes; for parts, how many categories there are, the category being an input.
        grouping: "ssg", one radius a level, or "msg", several.
        radius: factor of all radii; larger for points that lie farther apart.
        dropout: before the last layer.
        noise: a Drop module for the recommended position, inside the max of the last level ("pool": for parts over all
            points, for scenes over balls), or a mapping of layer name (sa1, sa2 and for scenes sa3: dropped points
            are left out of the max over a ball, in all scales alike; pool) to module.
        sync_batch_norm: BatchNorm statistics over all processes.
        random_start: in training, the first centre of each cloud is drawn; otherwise it is its first point.

    The radii are metres for scenes, and for parts of clouds in the unit sphere. In a cloud of fewer points than a level has
    centres every point is one, in rows with `batch` each cloud has at least 512 (parts) or 1,024 (scenes).

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; category int64 [B]; logits
    [B, N, num_classes] or [M, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 13,
        in_channels: int = 9,
        categories: int | None = None,
        grouping: Grouping = "ssg",
        radius: float = 1.0,
        dropout: float = 0.5,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
        random_start: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        sync, self.categories = sync_batch_norm, categories
        self.pool_is_global = categories is not None  # see `needs_reestimation`
        self.sa3: nn.Module
        widths = [in_channels]
        down: list[SetAbstraction] = []
        for level in levels(SCENES if categories is None else PARTS, grouping, radius):
            # The first level's features are the network's input.
            down.append(SetAbstraction(widths[-1], level, sync, random_start, coordinates=not down))
            widths.append(down[-1].out_channels)
        if categories is None:
            self.sa1, self.sa2, self.sa3, self.sa4 = down
            self.fp4 = FeaturePropagation(widths[3] + widths[4], (256, 256), sync=sync)
            self.fp3 = FeaturePropagation(widths[2] + 256, (256, 256), sync=sync)
            self.fp2 = FeaturePropagation(widths[1] + 256, (256, 128), sync=sync)
            self.fp1 = FeaturePropagation(128, (128, 128, 128), sync=sync)
        else:
            self.sa1, self.sa2 = down
            self.sa3 = GlobalAbstraction(widths[2], sync=sync)
            self.fp3 = FeaturePropagation(widths[2] + 1024, (256, 256), carried=False, sync=sync)
            self.fp2 = FeaturePropagation(widths[1] + 256, (256, 128), sync=sync)
            last = (128,) * (2 if grouping == "msg" else 3)
            self.fp1 = FeaturePropagation(
                categories + 3 + in_channels + 128, last, sync=sync, coordinates=True
            )
        self.head = LinearNormAct(128, 128, bias=True, sync=sync, dropout=dropout)
        self.classes = nn.Linear(128, num_classes)
        layers = LAYERS["scenes" if categories is None else "parts"]
        self.noise = place_noise(noise, layers, "pool", "PointNet2Segmentation")

    def forward(
        self,
        x: Tensor,
        category: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        of_category = one_hot(category, self.categories, x, batch, batch_size)
        p0 = Points.of(x[..., :3].contiguous(), x, batch, batch_size)
        p1 = self.sa1(p0, draw_noise(self.noise, "sa1", p0))
        p2 = self.sa2(p1, draw_noise(self.noise, "sa2", p1))
        if of_category is None:
            p3 = self.sa3(p2, draw_noise(self.noise, "sa3", p2))
            p4 = self.sa4(p3, draw_noise(self.noise, "pool", p3))
            p2 = self.fp3(p2, self.fp4(p3, p4))
            points = self.fp1(p0._replace(features=None), self.fp2(p1, p2))
        else:
            whole = self.sa3(p2, draw_noise(self.noise, "pool", p2))
            p1 = self.fp2(p1, self.fp3(p2, None, whole))
            assert p0.features is not None
            own = torch.cat([p0.pos.reshape(-1, 3), p0.features], -1)
            points = self.fp1(p0._replace(features=own), p1, of_category)
        logits = self.classes(self.head(points.features))
        return logits.view(*x.shape[:-1], logits.shape[-1])

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        columns: dict[str, Sources] = {}
        ends: list[list[str]] = []
        for name in ("sa1", "sa2") if self.categories is not None else ("sa1", "sa2", "sa3", "sa4"):
            level: Any = self.get_submodule(name)
            found, end = level.columns(name, ends[-1] if ends else [self.in_channels])
            columns |= found
            ends.append(end)

        def carried(name: str, *sources: str | int) -> str:
            propagation: Any = self.get_submodule(name)
            found, last = perceptron(propagation.layers, name, sources)
            columns.update(found)
            return last

        if self.categories is None:
            last = carried("fp4", *ends[2], *ends[3])
            last = carried("fp1", carried("fp2", *ends[0], carried("fp3", *ends[1], last)))
        else:
            whole = carried("sa3", 3, *ends[1])
            last = carried("fp2", *ends[0], carried("fp3", whole, *ends[1]))
            last = carried("fp1", self.categories, 3 + self.in_channels, last)
        return Wiring(columns | chain([last], "head", "classes"))
