"""Values of a config: each field has a range, and is held to its type, from Python, a command line or a file."""

import json
import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from dropfold.models.formats import FormatSpec
from dropfold.train.config import ranges
from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import (
    CONFIGS,
    AugmentConfig,
    BlockConfig,
    CloudConfig,
    NoiseConfig,
    SceneConfig,
    Signature,
    VideoConfig,
)
from dropfold.train.config.ranges import check_options, check_signature
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint

CLOUDS = CloudConfig(data=Path("a.h5"))
VIDEO, BLOCKS, SCENES = VideoConfig(data=Path("a.h5")), BlockConfig(Path("a.h5")), SceneConfig(Path("a.h5"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_in_range_and_survives_its_file(name, tmp_path):
    config = recipe(name)
    check_options(config)
    checkpoint.save_config(tmp_path / "config.json", config, Signature(["a", "b"]))
    assert checkpoint.load_config(tmp_path)[0] == config


def numbers_in(kind, prefix=""):
    for field in fields(kind):
        hint = get_type_hints(kind)[field.name]
        if is_dataclass(hint):
            yield from numbers_in(hint, f"{prefix}{field.name}.")
        elif hint is not bool and ("int" in str(hint) or "float" in str(hint)) and "Literal" not in str(hint):
            yield prefix + field.name


@pytest.mark.parametrize("task", CONFIGS)
def test_every_number_has_a_range(task):
    known = {name for names, _, _ in ranges.RANGES for name in names}
    assert set(numbers_in(CONFIGS[task])) <= known


def with_noise(**options):
    return replace(CLOUDS, noise=replace(NoiseConfig("point"), **options))


def with_augment(**options):
    return replace(CLOUDS, augment=replace(AugmentConfig(), **options))


WRONG = [
    (with_augment(point_dropout=5.0), r"augment.point_dropout must be in 0 .. 1, below 1; got 5.0"),
    (with_augment(point_dropout=-0.1), "augment.point_dropout must be"),
    (with_augment(scale=(1.5, 0.5)), "augment.scale must be two numbers above 0, the smaller one first"),
    (with_augment(scale=(0.0, 1.0)), "augment.scale must be"),
    (with_augment(scale=(1.0,)), "augment.scale must be 2 values"),
    (with_augment(shift=-1.0), "augment.shift must be at least 0"),
    (with_augment(jitter=-0.01), "augment.jitter must be at least 0"),
    (with_noise(p=1.0), "noise.p must be in 0 .. 1, below 1; got 1.0"),
    (with_noise(p=-0.1), "noise.p must be"),
    (with_noise(k=0), "noise.k must be at least 1; got 0"),
    (with_noise(radius=0.0), "noise.radius must be above 0"),
    (with_noise(warmup_epochs=-1.0), "noise.warmup_epochs must be at least 0"),
    (with_noise(layers=()), "noise.layers must name the layers"),
    *(
        (replace(CLOUDS, **options), message)
        for options, message in (
            ({"epochs": 0}, "epochs must be at least 1; got 0"),
            ({"epochs": -1}, "epochs must be at least 1; got -1"),
            ({"epochs": 2.5}, "epochs must be a whole number; got 2.5"),
            ({"epochs": True}, "epochs must be a whole number; got True"),
            ({"epochs": 2**70}, r"epochs must be below 2\^31"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"lr": math.nan}, "lr must be a finite number; got nan"),
            ({"lr": math.inf}, "lr must be a finite number"),
            ({"lr": -1.0}, "lr must be above 0"),
            ({"lr": "0.1"}, "lr must be a number; got 0.1"),
            ({"lr_end": -1.0}, "lr_end must be at least 0"),
            ({"lr_factor": -3.0}, "lr_factor must be above 0, at most 1; got -3.0"),
            (
                {"lr_drops": (2, 4)},
                r"lr_drops are of the schedule step; got \(2, 4\) with cosine",
            ),
            ({"lr_factor": 1.5}, "lr_factor must be above 0, at most 1"),
            ({"lr_epochs": 0}, "lr_epochs must be at least 1"),
            ({"lr_drops": (0, 5)}, "lr_drops must be numbers of at least 1, each larger than the one before"),
            ({"lr_drops": (9, 5)}, r"lr_drops must be numbers .*; got \(9, 5\)"),
            ({"lr_drops": (5, 5)}, "lr_drops must be numbers"),
            ({"lr_drops": (1.5,)}, "lr_drops"),
            ({"norm_decay": 2.0}, "norm_decay must be above 0, at most 1"),
            ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
            ({"clip": 0.0}, "clip must be above 0"),
            ({"clip": math.nan}, "clip must be a finite number"),
            ({"label_smoothing": 1.5}, "label_smoothing must be in 0 .. 1"),
            ({"dropout": 1.0}, "dropout must be in 0 .. 1"),
            ({"dropout": -0.1}, "dropout must be in 0 .. 1"),
            ({"seed": 2**70}, r"seed must be below 2\^63"),
            ({"seed": -1}, "seed must be at least 0"),
            ({"held_out": -1}, "held_out must be at least 0"),
            ({"k": 0}, "k must be at least 1"),
            ({"points": 0}, "points must be at least 1"),
            ({"emb_dims": 0}, "emb_dims must be at least 1"),
            ({"radius": 0.0}, "radius must be above 0"),
            ({"regularization": -1.0}, "regularization must be at least 0"),
            ({"select": "<img onerror>"}, "select must be one of validation, test; got <img onerror>"),
            ({"network": "resnet"}, "network must be one of dgcnn, pointnet, pointnet2"),
            ({"train_on_validation": "yes"}, "train_on_validation must be true or false"),
            ({"noise": 3}, "noise must be the fields of a NoiseConfig; got 3"),
        )
    ),
    (replace(VIDEO, std=0.0), "std must be above 0"),
    (replace(VIDEO, frames=0), "frames must be at least 1"),
    (replace(VIDEO, shift=-1), "shift must be at least 0"),
    (replace(VIDEO, recurrent_dropout=1.0), "recurrent_dropout must be in 0 .. 1"),
    (replace(VIDEO, hidden_gain=0.0), "hidden_gain must be above 0"),
    (replace(VIDEO, ih=FormatSpec("tt", (4, 0), (2, 2), (2,))), "ih.in_modes must be numbers of at least 1"),
    (replace(VIDEO, hh=FormatSpec("tt", (4, 2), (2, 2), (-2,))), "hh.ranks must be numbers of at least 1"),
    (replace(VIDEO, mega=FormatSpec("bt", (4,), (2,), (2,), blocks=0)), "mega.blocks must be at least 1"),
    (replace(BLOCKS, votes=0), "votes must be at least 1"),
    (replace(BLOCKS, block=-1.0), "block must be above 0"),
    (replace(SCENES, sample_rate=0.0), "sample_rate must be above 0"),
    (replace(SCENES, pool_points=0), "pool_points must be at least 1"),
    (replace(SCENES, blocks=0), "blocks must be at least 1"),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_an_option_without_sense_is_refused_everywhere(config, message, tmp_path):
    """In Python, before the data are read and anything is written; and in the file of a run."""
    with pytest.raises(ValueError, match=message):
        check_options(config)
    with pytest.raises(ValueError, match=message):
        Run(replace(config, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    values = checkpoint.config_values(config, Signature(["a", "b"]))
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"config.json is not the config of a run: {message}"):
        checkpoint.load_config(tmp_path)


SIGNATURE = Signature(["a", "b"], (32, 6), False, ["x", "y"], [0, 1], Channels(normal=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "cooking"}, "task must be one of clouds, "),
        ({"task": ["clouds"]}, "task must be one of"),
        ({"colour": 1}, "there is a field colour, which this version of dropfold does not know"),
        ({"noise": {"kind": "point", "q": 1}}, "there is a field noise.q"),
        ({"noise": {"kind": "snow"}}, "noise.kind must be one of none, feat, point, cluster; got snow"),
        ({"data": 3}, "data must be a path"),
        ({"class_names": "ab"}, "class_names must be a list"),
        ({"class_names": [1, 2]}, "class_names must be a text"),
        ({"shape": [0, 6]}, "shape must be numbers of at least 1"),
        ({"shape": [32, 5]}, "shape must end with the 6 channels of a point"),
        ({"shape": [32.5, 6]}, "shape must be a whole number"),
        ({"part_category": [0]}, "part_category must be 2 numbers"),
        ({"part_category": [0, 2]}, "part_category must be 2 numbers, .* below the 2 categories"),
        ({"part_category": [0, -1]}, "part_category must be 2 numbers"),
        ({"channels": {"pos": 3, "normal": -3}}, "channels must be counts of at least 0"),
        ({"channels": {"pos": "3"}}, "channels.pos must be a whole number"),
        ({"multi_label": 1}, "multi_label must be true or false"),
    ],
)
def test_a_file_that_is_no_config_is_refused(values, message, tmp_path):
    whole = checkpoint.config_values(CLOUDS, SIGNATURE)
    (tmp_path / "config.json").write_text(json.dumps(whole))
    assert checkpoint.load_config(tmp_path) == (CLOUDS, SIGNATURE)
    (tmp_path / "config.json").write_text(json.dumps(whole | values))
    with pytest.raises(ValueError, match=message):
        checkpoint.load_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "[" * 100_000, '{"a": ' * 5000, "\xff", '{"data": NaN}']
)
def test_text_that_is_no_config_is_refused_with_a_sentence(text, tmp_path):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json .*Put a copy of the file back, or train anew"):
        checkpoint.load_config(tmp_path)


def test_numpy_s_numbers_are_numbers():
    import numpy as np

    check_options(
        replace(CLOUDS, lr=np.float64(0.1), epochs=np.int64(3), noise=NoiseConfig(p=np.float32(0.5)))
    )
    check_signature(Signature([]))
