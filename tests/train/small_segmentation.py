"""Shapes with parts and rooms small enough for tests, and configs for them."""

from dataclasses import replace

import numpy as np

from dropfold.data_scripts.schemas import block_schema, part_schema, scene_schema
from dropfold.train.config.configs import AugmentConfig, BlockConfig, NoiseConfig, PartConfig, SceneConfig
from dropfold.train.config.recipes import recipe
from dropfold.train.data.columns import channels

CLASSES = ["ceiling", "floor", "wall", "table"]


def write_shapes(path, shapes=24):
    """Poles and plates of 40 to 90 points: of a pole the upper and the lower half, of a plate its rim and the rest."""
    random = np.random.default_rng(0)
    size = random.integers(40, 90, shapes)
    category = np.arange(shapes) % 2
    points, part = [], []
    for n, c in zip(size, category):
        x = (
            random.uniform(-1, 1, (n, 3)) * (1, 1, 0.05)
            if c
            else random.uniform(-1, 1, (n, 3)) * (0.1, 1, 0.1)
        )
        points.append(x / np.linalg.norm(x, axis=1).max())
        part.append((np.abs(x).max(1) > 0.7) + 2 if c else x[:, 1] > 0)
    part_schema.write(
        path,
        part_schema.Parts(
            points=np.concatenate(points).astype(np.float32),
            part=np.concatenate(part).astype(np.uint8),
            ptr=np.concatenate([[0], np.cumsum(size)]),
            category=category,
            split=np.repeat([0, 1, 2], [shapes - 10, 4, 6]).astype(np.uint8),
            name=[f"shape {i}" for i in range(shapes)],
            class_names=["pole", "plate"],
            part_names=["pole/lower", "pole/upper", "plate/inner", "plate/rim"],
            part_category=np.array([0, 0, 1, 1]),
            source="made for tests",
            credits="none",
            rebuild="run the tests",
        ),
    )


def room(random, points):
    """A box of 2 to 3 metres with a table in it: points, colours, labels."""
    size = random.uniform(2, 3, 3)
    x = random.uniform(0, 1, (points, 3)) * size
    label = random.integers(4, size=points).astype(np.uint8)
    x[label == 0, 2], x[label == 1, 2], x[label == 2, 0] = size[2], 0, 0
    table = label == 3
    x[table] = size * (0.4, 0.4, 0.3) + random.uniform(0, 0.5, (table.sum(), 3)) * (1, 1, 0.05)
    colour = np.array([[250, 250, 250], [90, 60, 30], [200, 180, 160], [20, 90, 200]], np.uint8)[label]
    return x.astype(np.float32), colour, label


def write_rooms(path, areas=3, rooms=3, points=1500):
    """Rooms of three areas."""
    random = np.random.default_rng(0)
    with scene_schema.writer(path, CLASSES, "made for tests", "none", "run the tests") as writer:
        for i in range(areas * rooms):
            writer.add(
                f"Area_{i % areas + 1}/room_{i // areas}", i % areas + 1, *room(random, points + 100 * i)
            )


def write_blocks(path, areas=3, rooms=2, blocks=4, points=80, codes=()):
    """Blocks of 80 points each of rooms of three areas."""
    random = np.random.default_rng(0)
    with block_schema.writer(path, CLASSES, "made for tests", "none", "run the tests", codes=codes) as writer:
        for i in range(areas * rooms):
            area, label, seen = i % areas + 1, [], []
            for _ in range(blocks):
                x, colour, part = room(random, points)
                seen.append(channels(x, colour, x[:, :2].mean(0), x.max(0)))
                label.append(part)
            name = [f"Area_{area}/room_{i // areas}"] * blocks
            packed = block_schema.pack("blocks", np.stack(seen), np.stack(label), len(CLASSES))
            writer.add(packed, name, [area] * blocks)


def small_parts(folder, **options) -> PartConfig:
    """The components recipe in small."""
    config = replace(
        recipe("components"),
        data=folder / "parts.h5",
        points=32,
        epochs=2,
        batch_size=4,
        k=5,
        emb_dims=16,
        wandb="disabled",
        noise=NoiseConfig("cluster", p=0.3, k=4),
    )
    return replace(config, **options)


def small_scenes(folder, **options) -> SceneConfig:
    """The rooms recipe in small: tests on area 3."""
    config = replace(
        recipe("rooms"),
        data=folder / "rooms.h5",
        protocol="area",
        held_out=3,
        points=64,
        block=1.0,
        local_shape=False,
        blocks=12,
        fewest=48,
        validation_blocks=4,
        epochs=2,
        batch_size=4,
        k=5,
        emb_dims=16,
        wandb="disabled",
        noise=NoiseConfig("point", p=0.3),
        augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0, rotate=True, up="z"),
    )
    return replace(config, **options)


def small_blocks(folder, **options) -> BlockConfig:
    """The protocol on blocks in small: tests on area 3."""
    config = replace(
        recipe("s3dis-dgcnn"),
        data=folder / "blocks.h5",
        protocol="area",
        held_out=3,
        train_on_validation=False,
        points=64,
        epochs=2,
        batch_size=4,
        k=5,
        emb_dims=16,
        wandb="disabled",
        noise=NoiseConfig("point", p=0.3),
        augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0, rotate=True, up="z"),
    )
    return replace(config, **options)


def write_segmentation_sets(folder):
    """parts.h5, blocks.h5 and rooms.h5; returns the folder."""
    write_shapes(folder / "parts.h5")
    write_blocks(folder / "blocks.h5")
    write_rooms(folder / "rooms.h5")
    return folder
