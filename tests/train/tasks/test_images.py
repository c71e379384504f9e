"""Runs on images: from the data file to the report and to predictions of pictures, and what is refused."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dropfold.__main__ import main
from dropfold.data_scripts.schemas import image_schema
from dropfold.train.config.configs import ImageConfig
from dropfold.train.config.recipes import recipe
from dropfold.train.data.crops import crop_and_flip
from dropfold.train.engine.run import Run
from dropfold.train.scoring.logits import predict
from dropfold.train.tasks import images
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small_images


def test_a_run_writes_everything(image_run, image_folder, bars):
    names = {path.name for path in image_run.iterdir()}
    assert {"config.json", "metrics.jsonl", "model.safetensors", "summary.json", "report.html"} <= names
    trained = Trained.of(image_run)
    assert trained.config == small_images(image_folder, out=image_run)
    training = bars.pixels[bars.split == 0] / 255.0
    for found, expected in (
        (trained.signature.channel_mean, training.mean()),
        (trained.signature.channel_std, training.std()),
    ):
        assert found == pytest.approx([expected], rel=1e-12)
    assert trained.network.mean.tolist() == pytest.approx([training.mean()])
    page = (image_run / "report.html").read_text()
    assert "{{" not in page
    content = json.loads(
        re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1]
    )
    sections = {one["title"]: one["items"] for one in content["sections"]}
    assert len(sections["Most certain, and right"]) + len(sections["Most certain, and wrong"]) >= 6
    assert len(sections["What training sees"]) == images.AUGMENTED
    assert all(item["image"].startswith("iVBOR") for items in sections.values() for item in items)
    with np.load(image_run / "predictions.npz") as kept:
        again = predict(trained.network, (trained.data.test.inputs[0],), 8)
        assert np.allclose(kept["logits"], again, atol=1e-5)  # batches of the same size, in float32


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(image_run, image_folder, tmp_path, monkeypatch):
    import dropfold.train.engine.step as step

    steps, usual = [], step.loss_function

    def interrupted(*given):
        steps.append(1)
        if len(steps) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return usual(*given)

    monkeypatch.setattr(step, "loss_function", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Run(small_images(image_folder, out=tmp_path / "run")).train()
    monkeypatch.setattr(step, "loss_function", usual)
    Run(replace(small_images(image_folder), resume=tmp_path / "run")).train()
    one, two = (load_file(run / "model.safetensors") for run in (tmp_path / "run", image_run))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_windows_and_mirror_images():
    """Beside the definition, an image at a time; and without either the images are as they were."""
    pixels = torch.randint(0, 256, (40, 6, 8, 3), dtype=torch.uint8)

    def fresh():
        return torch.Generator().manual_seed(3)

    found, g = crop_and_flip(pixels, 2, True, fresh()), fresh()
    down, right = torch.randint(5, (2, 40, 1), generator=g)
    flipped = torch.rand(40, 1, generator=g) < 0.5
    for i in range(40):
        padded = torch.zeros(10, 12, 3, dtype=torch.uint8)
        padded[2:8, 2:10] = pixels[i]
        d, r = int(down[i]), int(right[i])
        window = padded[d : d + 6, r : r + 8]
        assert torch.equal(found[i], window.flip(1) if flipped[i] else window)
    assert 8 < int(flipped.sum()) < 32
    assert down.unique().tolist() == right.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(crop_and_flip(pixels, 0, False, fresh()), pixels)


def test_what_a_step_sees_follows_from_seed_epoch_and_step(image_folder):
    config = small_images(image_folder)
    split = images.load(config).train
    first, again = (list(images.batches(split, config, 1)) for _ in range(2))
    halves = [list(images.batches(split, config, 1, rank, 2)) for rank in range(2)]
    for ((x,), label), ((y,), _), *parts in zip(first, again, *halves):
        assert torch.equal(x, y)
        assert torch.equal(x, torch.cat([part[0][0] for part in parts]))
        assert torch.equal(label, torch.cat([part[1] for part in parts]))
    other = next(iter(images.batches(split, config, 2)))
    assert not torch.equal(first[0][0][0], other[0][0])


def test_a_fold_is_held_out(image_folder, bars):
    data = images.load(small_images(image_folder, protocol="fold", held_out=1))
    assert len(data.test) == 8
    assert sorted(np.concatenate([data.train.index, data.validation.index, data.test.index])) == list(
        range(40)
    )
    assert data.signature.channel_mean != images.load(small_images(image_folder)).signature.channel_mean


def test_the_scale_of_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    mean, std = images.channel_scale(pixels)
    assert mean == pytest.approx((pixels / 255).mean((0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((pixels / 255).std((0, 1, 2)), rel=1e-12)


def test_pictures_are_predicted(image_run, bars, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(bars.pixels[i, ..., 0]).save(folder / f"{i}.png")
    rgb = np.repeat(bars.pixels[0], 3, 2)
    Image.fromarray(rgb).save(tmp_path / "gray.png")  # gray in three channels
    files = [str(folder), str(tmp_path / "gray.png")]
    main(["predict", str(image_run), *files, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["file"] for one in found] == [str(folder / f"{i}.png") for i in range(3)] + files[1:]
    logits = predict(Trained.of(image_run).network, (torch.from_numpy(bars.pixels[[0, 1, 2, 0]]),))
    for one, p in zip(found, logits.softmax(1).tolist()):
        assert one["probabilities"] == pytest.approx(dict(zip(bars.class_names, p)), abs=1e-4)
    rgb[..., 1] = 0
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    Image.fromarray(bars.pixels[0, :8, :, 0]).save(tmp_path / "small.png")
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / name for name in ("colour.png", "small.png", "none.png", "empty")]
    with pytest.raises(SystemExit):
        main(["predict", str(image_run), *map(str, bad)])
    said = capsys.readouterr().err
    assert "colour.png is in colour, and the run was trained on gray images" in said
    assert "small.png has 16 x 8 pixels, and the run was trained on 16 x 16" in said
    assert "none.png cannot be read" in said
    assert "empty is a folder without PNG or JPEG" in said


def test_every_file_of_a_folder_is_read_or_named(tmp_path):
    for name in ("b/1.png", "2.JPG", "x.bmp", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    alone = tmp_path / "x.bmp"
    files, notes = images.list_pictures((tmp_path, alone))
    assert files == (tmp_path / "2.JPG", tmp_path / "b/1.png", alone)
    assert notes == [
        f"{tmp_path}: 1 file was not read, hidden: .hidden.png",
        f"{tmp_path}: 2 files were not read, of kinds that are not read (1 .bmp, 1 .txt): notes.txt, x.bmp",
        f"{tmp_path}: 5 files in all: 2 read, 3 not read",
    ]


def test_evaluation(image_run, image_folder, bars, tmp_path, capsys):
    main(["evaluate", str(image_run), "--split", "validation"])
    assert "overall accuracy" in capsys.readouterr().out
    main(["evaluate", str(image_run), "--precision", "bf16"])
    assert "bf16: overall accuracy" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"int8 is for networks on point clouds.*bf16 takes it"):
        main(["evaluate", str(image_run), "--precision", "int8"])
    capsys.readouterr()
    with pytest.raises(
        SystemExit, match=r"not a run on the coordinates of point clouds.*it is one on images"
    ):
        main(["robustness", str(image_run), "--out", str(tmp_path / "robustness")])
    assert "corruptions" not in capsys.readouterr().err  # no bar of work that is refused
    image_schema.write(tmp_path / "other.h5", replace(bars, pixels=bars.pixels[:, :12]))
    with pytest.raises(SystemExit, match=r"samples \[12, 16, 1\], the run was trained on \[16, 16, 1\]"):
        main(["evaluate", str(image_run), "--data", str(tmp_path / "other.h5")])


def test_bad_input_is_named(image_folder, bars, tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            Run(small_images(image_folder, out=tmp_path / "run", **options))

    refused("Did you mean 'resnet20'", network="resnet-20")
    refused("batch_size must be at least 2: BatchNorm needs more than one image", batch_size=1)
    refused("padding must be at least 0; got -1", padding=-1)
    refused("protocol group-fold is not for this data", protocol="group-fold", held_out=0)
    refused(r"none\.h5 is not there.*dropfold data images", data=tmp_path / "none.h5")
    black = tmp_path / "black.h5"
    image_schema.write(black, replace(bars, pixels=0 * bars.pixels))
    refused("a channel that is the same everywhere", data=black)
    small = tmp_path / "small.h5"
    image_schema.write(small, replace(bars, pixels=bars.pixels[:, :12]))
    refused(r"vgg16 does not take images of 16 x 12 pixels: .* at least 16", data=small, network="vgg16")
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_task_is_named(image_folder):
    with pytest.raises(
        ValueError, match=r"holds images, and .* learns from shapes.*dropfold train fashion-resnet20"
    ):
        Run(replace(recipe("furniture"), data=image_folder / "images.h5"))


@pytest.mark.parametrize("name", ["fashion-resnet20", "fashion-vgg16"])
def test_the_recipes_fit_the_shipped_images(name):
    config = recipe(name)
    assert isinstance(config, ImageConfig)
    data = images.load(config)
    network = images.build(config, data.signature).eval()
    assert network(data.test.inputs[0][:2]).shape == (2, 10)
    assert data.signature.channel_mean == pytest.approx([0.2874], abs=1e-4)


def test_pillow_is_not_imported_by_training(monkeypatch):
    """It is by reading pictures."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert images.load(recipe("fashion-resnet20")).signature.shape == (28, 28, 1)
