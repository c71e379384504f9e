"""Studies: the variants that `dropfold compare` runs over seeds; the first is what the others are compared to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import (
    Config,
    NoiseConfig,
    PartConfig,
    PointConfig,
    SceneConfig,
    VideoConfig,
)
from dropfold.train.config.recipes import recipe

Shape = tuple[int, ...]

RECIPE_SUFFIXES = {"pointnet": "-pointnet", "pointnet2": "-pointnet2", "dgcnn": ""}
# The recipe that each noise study varies.
NOISE_STUDIES = {
    "pointnet": "furniture-pointnet",
    "dgcnn": "furniture",
    "pointnet-meshes": "labeled-meshes-pointnet",
    "dgcnn-meshes": "labeled-meshes",
    "pointnet2": "furniture-pointnet2",
    **{
        f"{network}-{data}": f"{data}{suffix}"
        for data in ("components", "rooms")
        for network, suffix in RECIPE_SUFFIXES.items()
    },
}


# The settings that each noise study compares. Those of CHOSEN are chosen on validation shapes of the same data: the p (and
# cluster size) that is best inside the pool in the noise-grid study, then the best position at that p in the noise-where
# study. Best is the largest sum of accuracy and accuracy with parts missing, mCE deciding between equals.
CHOSEN = ("pointnet", "dgcnn", "pointnet-meshes", "dgcnn-meshes")
# The others are not chosen: parts and scenes, which are complete here, get a small p of each. PointNet++'s pools are over
# 128 centres, for rooms over 64.
LITTLE = {
    "DropFeat": NoiseConfig("feat", 0.2),
    "DropPoint": NoiseConfig("point", 0.2),
    "DropCluster": NoiseConfig("cluster", 0.2, k=32),
}
OF_CENTRES = LITTLE | {"DropCluster": NoiseConfig("cluster", 0.2, k=8)}
SETTINGS = {name: OF_CENTRES if "pointnet2" in name else LITTLE for name in NOISE_STUDIES} | {
    "pointnet": {
        "DropFeat": NoiseConfig("feat", 0.2),
        "DropPoint": NoiseConfig("point", 0.3, layers=("conv1",)),
        "DropCluster": NoiseConfig("cluster", 0.5, k=32),
    },
    "dgcnn": {
        "DropFeat": NoiseConfig("feat", 0.1),
        "DropPoint": NoiseConfig("point", 0.3),
        "DropCluster": NoiseConfig("cluster", 0.5, k=64),
    },
    "dgcnn-meshes": {
        "DropFeat": NoiseConfig("feat", 0.1, layers=("edge4",)),
        "DropPoint": NoiseConfig("point", 0.3, layers=("edge1",)),
        "DropCluster": NoiseConfig("cluster", 0.2, k=32),
    },
    "pointnet2": {
        "DropFeat": NoiseConfig("feat", 0.2),
        "DropPoint": NoiseConfig("point", 0.3),
        "DropCluster": NoiseConfig("cluster", 0.5, k=16),
    },
    "pointnet-meshes": {
        "DropFeat": NoiseConfig("feat", 0.5),
        "DropPoint": NoiseConfig("point", 0.7),
        "DropCluster": NoiseConfig("cluster", 0.5, k=32),
    },
}

# The settings tried for each noise inside the pool: p of DropFeat and DropPoint, p and size of DropCluster. Each noise has
# as many, so that none has more chances than another; fewer for DGCNN, whose run takes three times as long.
GRIDS: dict[str, tuple[tuple[float, ...], tuple[tuple[float, int], ...]]] = {
    "pointnet": (
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
        ((0.2, 32), (0.35, 32), (0.5, 32), (0.2, 64), (0.35, 64), (0.5, 64)),
    ),
    "dgcnn": ((0.1, 0.3, 0.5), ((0.2, 32), (0.5, 32), (0.5, 64))),
}

# The positions tried for each noise, at the setting that is best inside the pool.
POSITIONS = {"pointnet": ("conv1", "conv2", "pool"), "dgcnn": ("edge1", "edge4", "pool")}


def varied(name: str, noises: dict[str, NoiseConfig]) -> dict[str, Config]:
    """A noise study's recipe, made smaller, without noise and with each of `noises`."""
    base = recipe(NOISE_STUDIES[name])
    assert isinstance(base, PointConfig)
    settings = {"none": NoiseConfig()} | noises
    return {label: replace(smaller(base), noise=noise) for label, noise in settings.items()}


def smaller(config: PointConfig) -> PointConfig:
    """A config that one core trains in minutes. Studies that choose nothing train on the validation split too."""
    if config.network == "dgcnn":
        config = replace(config, k=10, emb_dims=256)
    if isinstance(config, SceneConfig):
        return replace(config, blocks=240, epochs=10, train_on_validation=True)
    if isinstance(config, PartConfig):
        config = replace(config, epochs=20, train_on_validation=True)
        # PointNet++ has 512 centres.
        return replace(config, epochs=12) if config.network == "pointnet2" else replace(config, points=256)
    epochs = {"dgcnn": 30, "pointnet2": 15}
    return replace(config, epochs=epochs.get(config.network, config.epochs))


def noise(name: str) -> dict[str, Config]:
    """DropFeat, DropPoint and DropCluster beside no noise."""
    return varied(name, SETTINGS[name])


def noise_grid(name: str) -> dict[str, Config]:
    """Each noise in as many settings inside the pool, beside no noise; choose with --split validation."""
    rates, clusters = GRIDS[name.removesuffix("-meshes")]
    grid = {
        **{f"DropFeat p {p}": NoiseConfig("feat", p) for p in rates},
        **{f"DropPoint p {p}": NoiseConfig("point", p) for p in rates},
        **{f"DropCluster p {p} k {k}": NoiseConfig("cluster", p, k=k) for p, k in clusters},
    }
    return varied(name, grid)


def noise_where(name: str) -> dict[str, Config]:
    """Each noise in the first layer, a late one, and inside the pool, beside no noise; choose with --split validation."""
    places = POSITIONS[name.removesuffix("-meshes")]
    settings = SETTINGS[name].items()
    return varied(
        name, {f"{label}, {at}": replace(noise, layers=(at,)) for label, noise in settings for at in places}
    )


def formats(
    base: VideoConfig, inputs: Shape, ring: tuple[Shape, Shape], hidden: Shape
) -> dict[str, VideoConfig]:
    """TT, TR, BT, CP and HT of the input matrix alone, with a dense hidden one, and of both; `inputs` are the modes of a
    frame, `ring` those of the tensor ring, input and output (it pairs none, so it takes more and smaller ones)."""
    settings: dict[str, dict[str, Any]] = {
        "TT": {"format": "tt", "ranks": (4,)},
        "TR": {"format": "tr", "ranks": (5,)},
        "BT": {"format": "bt", "ranks": (4,), "blocks": 2},
        "CP": {"format": "cp", "ranks": (5,), "paired": True},
        "HT": {"format": "ht", "ranks": (5,)},
    }
    variants = {}
    for name, options in settings.items():
        rows, columns = ring if name == "TR" else (inputs, hidden)
        ih = FormatSpec(in_modes=rows, out_modes=columns, **options)
        hh = FormatSpec(in_modes=columns, out_modes=columns, **options)
        variants[f"{name}, input"] = replace(base, ih=ih, hh=FormatSpec(), mega=FormatSpec())
        variants[f"{name}, both"] = replace(base, ih=ih, hh=hh, mega=FormatSpec())
    return variants


def action_video() -> dict[str, Config]:
    """Every format, of the input matrix alone and of both, and FDHT, beside the dense LSTM."""
    fdht = _video("action-video")
    dense = replace(fdht, mega=FormatSpec(), lr=1e-3)
    ring = ((6, 10, 10, 8), (4, 4, 4, 4))
    return {"dense": dense, **formats(fdht, (6, 10, 10, 8), ring, (4, 4, 4, 4)), "FDHT": fdht}


def moving_furniture() -> dict[str, Config]:
    """TT and HT of the input matrix alone and of both, and FDHT, beside the dense LSTM."""
    fdht = _video("fdht-lstm-video")
    dense = replace(fdht, mega=FormatSpec(), lr=3e-5)
    some = formats(fdht, (8, 20, 20, 18), ((8, 20, 20, 18), (4, 4, 4, 4)), (4, 4, 4, 4))
    chosen = {name: config for name, config in some.items() if name[:2] in ("TT", "HT")}
    return {"dense": dense, **chosen, "FDHT": fdht}


def _video(name: str) -> VideoConfig:
    config = recipe(name)
    assert isinstance(config, VideoConfig)
    return config


STUDIES: dict[str, Callable[[], dict[str, Config]]] = {
    "action-video": action_video,
    "moving-furniture": moving_furniture,
    **{f"noise-{name}": partial(noise, name) for name in NOISE_STUDIES},
    **{f"noise-grid-{name}": partial(noise_grid, name) for name in CHOSEN},
    **{f"noise-where-{name}": partial(noise_where, name) for name in CHOSEN},
}
