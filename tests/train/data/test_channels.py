"""What input channels mean: right for every task and option, kept in a run's config, known of older runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import CONFIGS, AugmentConfig, SceneConfig, Signature
from dropfold.train.data.augment import augment, augment_channels
from dropfold.train.data.input_channels import channels_of
from dropfold.train.data.local_shape import CHANNELS
from dropfold.train.storage import checkpoint
from dropfold.train.storage.checkpoint import load_config, save_config
from dropfold.train.tasks.points import build_segmenter
from dropfold.train.tasks.registry import TASKS
from tests.train.conftest import small, small_video
from tests.train.small_segmentation import (
    small_blocks,
    small_parts,
    small_scenes,
    write_blocks,
    write_rooms,
    write_shapes,
)

CASES = {
    "clouds": (small, {}, Channels()),
    "clouds, normals": (small, {"normals": True}, Channels(normal=3)),
    "parts": (small_parts, {}, Channels()),
    "parts, shape": (small_parts, {"local_shape": True}, Channels(shape=CHANNELS)),
    "blocks": (small_blocks, {}, Channels(colour=3, place=3)),
    "blocks, gray": (small_blocks, {"colour": False}, Channels(place=3)),
    "scenes": (small_scenes, {}, Channels(colour=3, place=3)),
    "scenes, gray": (small_scenes, {"colour": False}, Channels(place=3)),
    "scenes, shape": (small_scenes, {"local_shape": True}, Channels(colour=3, place=3, shape=CHANNELS)),
}


@pytest.fixture(scope="module")
def folders(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("segmentation")
    write_shapes(path / "parts.h5")
    write_blocks(path / "blocks.h5")
    write_rooms(path / "rooms.h5")
    return {"clouds": folder, "parts": path, "blocks": path, "scenes": path}


@pytest.mark.parametrize("case", CASES)
def test_each_channel_is_where_its_name_says(case, folders, tmp_path):
    make, options, expected = CASES[case]
    config = make(folders[case.split(",")[0]], **options)
    config = replace(config, augment=replace(config.augment, scale=(1.0, 1.0), shift=0.0, rotate=False))
    task = TASKS[config.task]
    data = task.load(config)
    channels = data.signature.channels
    assert channels == expected == channels_of(config)
    assert channels.total == data.signature.shape[-1]
    (x, *_), _ = next(task.batches(data.train, config, 0))
    assert x.shape[-1] == channels.total
    parts = {name: x[..., where] for name, where in channels.slices.items()}
    assert torch.equal(torch.cat(list(parts.values()), -1), x)
    if channels.normal:
        torch.testing.assert_close(parts["normal"].norm(dim=-1), torch.ones(x.shape[:-1]), atol=1e-3, rtol=0)
    if channels.colour:  # the four colours of the rooms in tests
        known = torch.tensor([[250, 250, 250], [90, 60, 30], [200, 180, 160], [20, 90, 200]]) / 255
        assert torch.cdist(parts["colour"].flatten(0, -2), known).amin(1).max() < 1e-3
    if channels.place:  # along z the place is the height, over the room's
        place, height = parts["place"][..., 2], parts["pos"][..., 2]
        assert ((place >= 0) & (place <= 1 + 1e-6)).all()
        for block_place, block_height in zip(place, height):
            assert np.corrcoef(block_place, block_height)[0, 1] > 0.999
    if channels.shape:  # linearity, planarity and sphericity add up to 1
        torch.testing.assert_close(
            parts["shape"][..., :3].sum(-1), torch.ones(x.shape[:-1]), atol=5e-3, rtol=0
        )
    checkpoint.save_config(tmp_path / "config.json", config, data.signature)
    assert checkpoint.load_config(tmp_path) == (config, data.signature)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["channels"], values["sha256"]  # as a run of an older version left it
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert checkpoint.load_config(tmp_path) == (config, data.signature)


@pytest.mark.parametrize("case", CASES)
def test_a_network_takes_the_channels_of_the_signature(case, folders):
    """Of the signature alone: not those that the config asks for, nor a count of its own."""
    make, options, _ = CASES[case]
    config = replace(make(folders[case.split(",")[0]], **options), network="pointnet2", radius=4.0)
    signature = Signature(
        ["a", "b"],
        channels=Channels(colour=2, shape=5),
        categories=["c"] if config.task == "parts" else [],
        part_category=[0, 0] if config.task == "parts" else [],
    )
    network = TASKS[config.task].build(config, signature).eval()
    inputs = [
        torch.rand(1, 600, signature.channels.total),
        *([torch.tensor([0])] if signature.categories else []),
    ]
    assert network(*inputs).shape[-1] == 2


def test_augmentation_turns_coordinates_and_normals_alone():
    """Wherever they stand; together, as `augment` turns clouds with normals."""
    channels = Channels(colour=3, place=3, normal=3, shape=2)
    x = torch.rand(4, 20, channels.total, generator=torch.Generator().manual_seed(0))
    config = AugmentConfig(rotate=True, jitter=0.01)
    found = augment_channels(x, channels, config, torch.Generator().manual_seed(1))
    pos, normal = channels.slices["pos"], channels.slices["normal"]
    expected = augment(torch.cat([x[..., pos], x[..., normal]], -1), config, torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([found[..., pos], found[..., normal]], -1), expected)
    assert not torch.isclose(found[..., normal], x[..., normal]).all(-1).any()
    for kind in ("colour", "place", "shape"):
        assert torch.equal(found[..., channels.slices[kind]], x[..., channels.slices[kind]])


def test_videos_have_no_points(video_folder):
    config = small_video(video_folder)
    assert TASKS["video"].load(config).signature.channels is None
    assert CONFIGS.keys() == TASKS.keys()


def test_slices_follow_one_another():
    channels = Channels(colour=3, place=3, shape=24)
    assert channels.slices == {
        "pos": slice(0, 3),
        "colour": slice(3, 6),
        "place": slice(6, 9),
        "normal": slice(9, 9),
        "shape": slice(9, 33),
    }
    assert str(channels) == "3 pos, 3 colour, 3 place, 24 shape"


@pytest.mark.parametrize(
    ("shape", "colour", "trained_with", "said"),
    [(False, True, (6, 7, 8), False), (True, True, (0, 1, 2), True), (False, False, (0, 1, 2), True)],
)
def test_a_run_that_does_not_say_its_graph_keeps_the_one_it_was_trained_with(
    shape, colour, trained_with, said, tmp_path, capsys
):
    """Runs of before had the graph of their last three channels if they were nine, else of the coordinates."""
    config = SceneConfig(data=tmp_path / "scenes.h5", local_shape=shape, colour=colour, k=4, emb_dims=32)
    signature = Signature(["a", "b"], (64, channels_of(config).total), channels=channels_of(config))
    place = tuple(range(3 + 3 * colour, 6 + 3 * colour))
    assert build_segmenter(config, signature).graph_channels == place
    save_config(tmp_path / "config.json", config, signature)
    assert build_segmenter(*load_config(tmp_path)).graph_channels == place
    values = json.loads((tmp_path / "config.json").read_text())
    del values["graph"], values["channels"]["graph"], values["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert build_segmenter(*load_config(tmp_path)).graph_channels == trained_with
    assert (
        "does not say which channels make its graph: it was trained with pos" in capsys.readouterr().err
    ) == said
