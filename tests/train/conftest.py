"""A training small enough for tests: real shapes, few of them, few points, one small network."""

from dataclasses import replace

import numpy as np
import pytest

from data_scripts import schema
from train.config import AugmentConfig, CloudConfig, NoiseConfig
from train.recipes import recipe as named


def small(folder, **options) -> CloudConfig:
    """The furniture recipe in small."""
    config = replace(
        named("furniture"),
        data=folder / "small.h5",
        points=32,
        epochs=3,
        batch_size=8,
        k=5,
        emb_dims=32,
        wandb="disabled",
        noise=NoiseConfig("cluster", p=0.3, k=4),
        augment=AugmentConfig(),
    )
    return replace(config, **options)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps one state a process; each test begins with none."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def furniture():
    from pathlib import Path

    return schema.read(Path(__file__).parents[2] / "data/furniture.h5")


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
    schema.write(
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
