"""A training small enough for tests: real shapes, few of them, few points, one small network."""

from dataclasses import replace

import numpy as np
import pytest

from dropfold.data_scripts.schemas import image_schema, shape_schema, splits, video_schema
from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import AugmentConfig, CloudConfig, ImageConfig, NoiseConfig, VideoConfig
from dropfold.train.config.recipes import recipe as named


def small(folder, **options) -> CloudConfig:
    """The furniture recipe in small."""
    config = replace(
        named("furniture"),
        data=folder / "small.h5",
        points=32,
        epochs=3,
        validate_every=2,
        batch_size=8,
        k=5,
        emb_dims=32,
        wandb="disabled",
        noise=NoiseConfig("cluster", p=0.3, k=4),
        augment=AugmentConfig(),
    )
    return replace(config, **options)


def small_video(folder, **options) -> VideoConfig:
    """A fully decomposed LSTM on clips.h5, with both dropouts and shifts."""
    config = VideoConfig(
        data=folder / "clips.h5",
        epochs=3,
        batch_size=8,
        lr=1e-2,
        hidden=8,
        mega=FormatSpec("ht", (4, 2, 4, 2), (2, 2, 2, 1), (2,)),
        dropout=0.2,
        recurrent_dropout=0.2,
        shift=1,
        wandb="disabled",
        recipe="action-video",
    )
    return replace(config, **options)


def small_images(folder, **options) -> ImageConfig:
    """ResNet-20 on images.h5."""
    config = ImageConfig(
        data=folder / "images.h5",
        epochs=2,
        batch_size=8,
        schedule="one-cycle",
        lr=0.02,
        dropout=0.1,
        padding=1,
        wandb="disabled",
        recipe="fashion-resnet20",
    )
    return replace(config, **options)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps one state a process; each test begins with none, and leaves none to a module's fixtures."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def furniture():
    from pathlib import Path

    return shape_schema.read(Path(__file__).parents[2] / "data/furniture.h5")


@pytest.fixture(scope="session")
def folder(tmp_path_factory, furniture):
    """A folder with small.h5: 30 training shapes, 6 to validate, 12 to test, of three classes."""
    path = tmp_path_factory.mktemp("data")
    chosen = np.concatenate(
        [
            np.flatnonzero((furniture.label == c) & (furniture.split == split))[:n]
            for split, n in ((0, 10), (1, 2), (2, 4))
            for c in range(3)
        ]
    )
    shape_schema.write(
        path / "small.h5",
        replace(
            furniture,
            points=furniture.points[chosen, :64],
            normals=furniture.normals[chosen, :64],
            label=furniture.label[chosen],
            split=furniture.split[chosen],
            name=[furniture.name[i] for i in chosen],
            library=[furniture.library[i] for i in chosen],
            class_names=furniture.class_names[:3],
        ),
    )
    return path


@pytest.fixture(scope="session")
def clips():
    """40 clips of at most 5 gray frames of 6 x 8: a bright column that runs right, runs left, or stays."""
    random = np.random.default_rng(0)
    n, T, H, W = 40, 5, 6, 8
    label, length = np.arange(n) % 3, random.integers(3, T + 1, n)
    frames = random.integers(0, 40, (n, T, H, W, 1)).astype(np.uint8)
    for i in range(n):
        column = (random.integers(W) + np.arange(T) * (1, -1, 0)[label[i]]) % W
        frames[i, np.arange(T), :, column] = 250
        frames[i, length[i] :] = 0
    group = [f"scene {i // 4}" for i in range(n)]
    split = np.repeat([0, 1, 2], [24, 6, 10]).astype(np.uint8)
    return video_schema.Videos(
        frames=frames,
        length=length,
        label=label,
        split=split,
        fold=splits.random_folds(n),
        group_fold=splits.group_folds(group, label),
        group=group,
        name=[f"clip {i}" for i in range(n)],
        class_names=["right", "left", "still"],
        source="made for tests",
        credits="none",
        rebuild="run the tests",
    )


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory, clips):
    """A folder with clips.h5, and labels.h5 where a clip may have several labels."""
    path = tmp_path_factory.mktemp("videos")
    video_schema.write(path / "clips.h5", clips)
    labels = np.eye(3, dtype=np.uint8)[clips.label]
    labels[::4, 2] = 1
    video_schema.write(path / "labels.h5", replace(clips, labels=labels))
    return path


@pytest.fixture(scope="session")
def bars():
    """40 gray images of 16 x 16: a bright row, a bright column, or neither, on noise."""
    random = np.random.default_rng(0)
    n, label = 40, np.arange(40) % 3
    pixels = random.integers(0, 60, (n, 16, 16, 1)).astype(np.uint8)
    for i in range(n):
        place = random.integers(3, 13)
        if label[i] < 2:
            pixels[i, place] = 240
        if label[i] == 1:
            pixels[i] = pixels[i].swapaxes(0, 1)
    return image_schema.Images(
        pixels=pixels,
        label=label,
        split=np.repeat([0, 1, 2], [24, 6, 10]).astype(np.uint8),
        name=[f"image {i}" for i in range(n)],
        class_names=["row", "column", "noise"],
        source="made for tests",
        credits="none",
        rebuild="run the tests",
    )


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory, bars):
    """A folder with images.h5."""
    path = tmp_path_factory.mktemp("images")
    image_schema.write(path / "images.h5", bars)
    return path


@pytest.fixture(scope="session")
def image_run(tmp_path_factory, image_folder):
    """A finished run on images.h5."""
    from dropfold.train.engine.run import Run

    out = tmp_path_factory.mktemp("image_run") / "run"
    Run(small_images(image_folder, out=out)).train()
    return out
