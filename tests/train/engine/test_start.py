"""Training that begins from the weights of a finished run."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dropfold.data_scripts.schemas import shape_schema
from dropfold.models.layers.noise import Drop
from dropfold.train.config.configs import NoiseConfig
from dropfold.train.engine.method import Method
from dropfold.train.engine.run import Run
from dropfold.train.report.report import command
from dropfold.train.storage import checkpoint
from tests.train.conftest import small, small_video


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    Run(small(folder, out=out, epochs=1)).train()
    return out


def weights_of(state):
    """Everything of a state dict but the drop probability and the step of its noise."""
    return {name: value for name, value in state.items() if not name.startswith("noise.")}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_run_begins_from_the_weights_of_another(finished, folder, tmp_path):
    config = small(folder, out=tmp_path / "run", start=finished, points=24, seed=3)
    run = Run(config)
    assert_same(weights_of(run.network.state_dict()), weights_of(load_file(finished / "model.safetensors")))
    run.train()
    saved, _ = checkpoint.load_config(tmp_path / "run")
    assert saved.start == finished
    assert f"--start {finished}" in command(saved)


NOISES = {
    "another p": (NoiseConfig("cluster", p=0.5, k=4), 0.5),
    "a warm-up": (NoiseConfig("cluster", p=0.3, k=4, warmup_epochs=2), 0.0),
    "another kind and layer": (NoiseConfig("point", p=0.4, layers=("edge1",)), 0.4),
    "none": (NoiseConfig("none"), None),
}


@pytest.mark.parametrize("noise", NOISES)
def test_the_noise_is_that_of_the_new_run(noise, finished, folder, tmp_path):
    """Its drop probability, and a warm-up from its first step, whatever noise the first run was trained with."""
    wanted, rate = NOISES[noise]
    run = Run(small(folder, out=tmp_path / "run", start=finished, noise=wanted))
    first = load_file(finished / "model.safetensors")
    assert first["noise.pool.step"] > 0
    assert_same(weights_of(run.network.state_dict()), weights_of(first))
    drops = [module for module in run.network.modules() if isinstance(module, Drop)]
    assert [(float(drop.rate), int(drop.step)) for drop in drops] == (
        [] if rate is None else [(pytest.approx(rate), 0)]
    )


def test_a_run_with_noise_begins_from_one_without(folder, tmp_path):
    Run(small(folder, out=tmp_path / "clean", epochs=1, noise=NoiseConfig("none"))).train()
    run = Run(small(folder, out=tmp_path / "run", start=tmp_path / "clean"))
    assert_same(weights_of(run.network.state_dict()), load_file(tmp_path / "clean/model.safetensors"))
    assert float(run.network.state_dict()["noise.pool.rate"]) == pytest.approx(0.3)


class Interrupted(BaseException):
    """Ends a run as a kill does."""


class Interrupt(Method):
    def __init__(self, at):
        self.at = at

    def before_step(self, step):
        if (step.epoch, step.index) == self.at:
            raise Interrupted


@pytest.mark.parametrize("at", [(0, 1), (1, 1)], ids=["first-epoch", "second-epoch"])
def test_a_resumed_run_needs_no_other_folder(at, finished, folder, tmp_path):
    Run(small(folder, out=tmp_path / "whole", start=finished), [Interrupt(None)]).train()
    shutil.copytree(finished, tmp_path / "first")
    config = small(folder, out=tmp_path / "run", start=tmp_path / "first")
    with pytest.raises(Interrupted):
        Run(config, [Interrupt(at)]).train()
    shutil.rmtree(tmp_path / "first")
    Run(replace(small(folder), resume=tmp_path / "run"), [Interrupt(None)]).train()
    names = ("model.safetensors", "best.safetensors")
    for name in names:
        assert_same(load_file(tmp_path / "run" / name), load_file(tmp_path / "whole" / name))


def test_a_run_that_does_not_fit_is_refused(finished, folder, video_folder, furniture, tmp_path):
    def refused(match, config, error=ValueError):
        with pytest.raises(error, match=match):
            Run(config)
        assert not (tmp_path / "run").exists()

    def started(**options):
        return small(folder, out=tmp_path / "run", start=finished, **options)

    refused(
        r"sees samples \[32, 3\] of 3 pos, and this config gives \[32, 6\] of 3 pos, 3 normal",
        started(normals=True),
    )
    refused(
        "is another network: DGCNN with .*; this config builds: PointNet with", started(network="pointnet")
    )
    refused(r"is another network.* of their tensors differ, ", started(emb_dims=16))
    refused(
        "learnt clouds, and this run learns video",
        small_video(video_folder, out=tmp_path / "run", start=finished),
    )
    refused("is not there", replace(started(), start=tmp_path / "none"), FileNotFoundError)
    clouds_file = shape_schema.read(folder / "small.h5")
    other = tmp_path / "other.h5"
    shape_schema.write(other, replace(clouds_file, class_names=["a", "b", "c"]))
    refused(r"was trained on the classes \[.*\], and .*other.h5 has \['a', 'b', 'c'\]", started(data=other))


def test_an_unfinished_run_is_no_start(finished, folder, tmp_path):
    shutil.copytree(finished, tmp_path / "first")
    (tmp_path / "first/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="the run has not ended"):
        Run(small(folder, out=tmp_path / "run", start=tmp_path / "first"))


def test_a_started_run_goes_on_from_there(finished, folder, tmp_path):
    """With next to no learning its weights stay those of the first run; the statistics of BatchNorm do not."""
    still = {"epochs": 1, "optimizer": "sgd", "lr": 1e-9, "lr_end": 1e-9, "weight_decay": 0.0}
    run = Run(small(folder, out=tmp_path / "run", start=finished, **still))
    names = [name for name, _ in run.network.named_parameters()]
    run.train()
    first, last = (load_file(out / "model.safetensors") for out in (finished, tmp_path / "run"))
    for name in names:
        torch.testing.assert_close(last[name], first[name], atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "run/config.json").read_text())["start"] == str(finished)
