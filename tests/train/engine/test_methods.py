"""Methods: what a user's own one changes, and that a run with one goes on after a kill as if nothing had been."""

import contextlib
import copy
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dropfold.models.layers.unfused import unfused
from dropfold.train.config.configs import NoiseConfig, Signature
from dropfold.train.config.recipes import recipe
from dropfold.train.engine.method import Method
from dropfold.train.engine.methods import methods_of
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import clouds
from tests.train.conftest import small

ROOT = Path(__file__).parents[3]
STILL = {
    "noise": NoiseConfig("none"),
    "dropout": 0.0,
    "epochs": 2,
    "optimizer": "sgd",
    "lr": 0.01,
    "lr_end": 0.01,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "network": "pointnet",
    "transforms": False,
}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def trained_weights(config, *methods):
    """The weights at the end of a run."""
    Run(config, methods).train()
    return load_file(config.out / "model.safetensors")


class Usual(Method):
    """Owns the step, and does what the engine does."""

    def take_step(self, step):
        logits = step.forward()
        loss = step.loss(logits)
        step.backward(loss)
        step.update()
        return loss, logits


class BothSides(Method):
    """Two forwards and backwards before an update: the batch and its mirror image."""

    def take_step(self, step):
        for sign in (1, -1):
            logits = step.forward((sign * step.inputs[0],))
            loss = step.loss(logits)
            step.backward(loss)
        step.update()
        return loss, logits


def test_a_method_that_does_the_usual_step_changes_no_bit(folder, tmp_path):
    one = trained_weights(small(folder, out=tmp_path / "one"))
    assert_same(trained_weights(small(folder, out=tmp_path / "two"), Usual()), one)


def test_a_method_owns_the_step(folder, tmp_path):
    config = small(folder, out=tmp_path / "run", **STILL)
    found = trained_weights(config, BothSides())
    data = clouds.load(config)
    torch.manual_seed(config.seed)
    network = clouds.build(config, data.signature)
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    optimizer = torch.optim.SGD(network.parameters(), config.lr, momentum=0.9)
    for epoch in range(config.epochs):
        for (x,), label in clouds.batches(data.train, config, epoch):
            optimizer.zero_grad()
            for sign in (1, -1):
                nn.functional.cross_entropy(network(sign * x), label).backward()
            optimizer.step()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            # Fused SGD rounds in another order; six steps.
            assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-5, name
    assert (nn.utils.parameters_to_vector(network.parameters()) - start).norm() > 1e-2


class SquaredWeights(Method):
    """c / 2 |w|^2, whose gradient is that of weight decay c."""

    def __init__(self, c):
        self.c = c

    def loss(self, step, logits):
        return self.c / 2 * sum(w.square().sum() for w in step.network.parameters())


def test_a_method_adds_a_term_to_the_loss(folder, tmp_path):
    """An L2 penalty in the loss is weight decay."""
    config = small(folder, out=tmp_path / "term", **STILL)
    found = trained_weights(config, SquaredWeights(0.3))
    decayed = trained_weights(replace(config, out=tmp_path / "decay", weight_decay=0.3))
    plain = trained_weights(replace(config, out=tmp_path / "plain"))
    for name, value in decayed.items():
        if value.is_floating_point() and value.norm() > 0:
            # float32 sums in another order; six steps.
            assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-5, name
    assert any(
        (found[name] - value).norm() > 0.01 * value.norm()
        for name, value in plain.items()
        if value.is_floating_point()
    )
    rows = [json.loads(line) for line in (tmp_path / "term/metrics.jsonl").read_text().splitlines()]
    without = [json.loads(line) for line in (tmp_path / "plain/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["train/loss"] > without[0]["train/loss"] + 0.1


class Average(Method):
    """Scores and saves the mean of the weights after each step, and pulls the weights towards it with a growing force."""

    def __init__(self, kill_at=None):
        self.mean, self.steps, self.force, self.kill_at = {}, 0, 0.0, kill_at

    def before_epoch(self, network, epoch):
        self.force += 0.5

    def before_step(self, step):
        if self.kill_at == (step.epoch, step.index):
            import os

            os.kill(os.getpid(), signal.SIGKILL)

    def loss(self, step, logits):
        if not self.mean:
            return None
        away = ((w - self.mean[name]).square().sum() for name, w in step.network.named_parameters())
        return self.force * sum(away)

    def after_step(self, step):
        self.steps += 1
        for name, w in step.network.named_parameters():
            before = self.mean.get(name, torch.zeros_like(w))
            self.mean[name] = before + (w.detach() - before) / self.steps

    def after_epoch(self, network, epoch):
        return {"force": self.force}

    def evaluated(self, network, batches):
        import copy

        network = copy.deepcopy(network)
        network.load_state_dict(self.mean, strict=False)
        return network

    def state_dict(self):
        return {"mean": self.mean, "steps": self.steps, "force": self.force}

    def load_state_dict(self, state):
        self.mean, self.steps, self.force = state["mean"], state["steps"], state["force"]


SCRIPT = """
from pathlib import Path
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from tests.train.engine.test_methods import Average
config, _ = checkpoint.load_config(Path({spec!r}))
Run(config, [Average(kill_at=(1, 2))]).train()
"""


def test_a_killed_run_takes_up_the_state_of_its_methods(folder, tmp_path):
    whole = trained_weights(small(folder, out=tmp_path / "whole"), Average())
    assert_same(whole, load_file(tmp_path / "whole/model.safetensors"))
    (tmp_path / "spec").mkdir()
    checkpoint.save_config(
        tmp_path / "spec/config.json", small(folder, out=tmp_path / "killed"), Signature([])
    )
    script = SCRIPT.format(spec=str(tmp_path / "spec"))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    again = replace(small(folder), resume=tmp_path / "killed")
    with pytest.raises(
        ValueError, match="trained with the methods Reestimation, Average, and is resumed with Reestimation;"
    ):
        Run(again)
    Run(again, [Average()]).train()
    assert_same(load_file(tmp_path / "killed/model.safetensors"), whole)
    assert_same(
        load_file(tmp_path / "killed/best.safetensors"), load_file(tmp_path / "whole/best.safetensors")
    )
    rows = [json.loads(line) for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert [row["force"] for row in rows] == [0.5, 1.0, 1.5]


def test_what_is_saved_is_what_the_method_evaluates(folder, tmp_path):
    method = Average()
    found = trained_weights(small(folder, out=tmp_path / "run"), method)
    for name, value in method.mean.items():
        assert torch.equal(found[name], value), name
    state = checkpoint.load_state(tmp_path / "run/checkpoint.pt")["model"]
    assert any(not torch.equal(found[name], state[name]) for name in method.mean)


class Frozen(Method):
    """Freezes all layers but the head."""

    def prepare(self, network):
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name.startswith("fc")
        self.before = {name: value.clone() for name, value in network.named_parameters()}
        return network


def test_a_method_prepares_the_network_before_the_optimiser_is_made(folder, tmp_path):
    method = Frozen()
    found = trained_weights(small(folder, out=tmp_path / "run", **STILL), method)
    for name, value in method.before.items():
        assert torch.equal(found[name], value) != name.startswith("fc"), name


def test_a_step_has_one_owner(folder, tmp_path):
    with pytest.raises(ValueError, match="one owner, and Usual, BothSides each want to own it"):
        Run(small(folder, out=tmp_path / "run"), [Usual(), BothSides()])


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("furniture", ["Reestimation"]),
        ("furniture-pointnet", ["TransformPenalty", "Reestimation"]),
        ("s3dis-pointnet2", ["MomentumDecay", "Reestimation"]),
        ("s3dis-pointnet", ["TransformPenalty", "MomentumDecay", "Reestimation"]),
        ("action-video", ["Reestimation"]),
    ],
)
def test_a_config_asks_for_its_methods(name, methods):
    assert [type(method).__name__ for method in methods_of(recipe(name))] == methods


class InFloat64(Method):
    """Trains in float64, fused or in the plain form: rounding stays far below what the test allows."""

    def __init__(self, form):
        self.form, self.losses = form, []

    def prepare(self, network):
        return network.double()

    def take_step(self, step):
        with self.form(step.network):
            logits = step.forward(tuple(x.double() if x.is_floating_point() else x for x in step.inputs))
            loss = step.loss(logits)
            step.backward(loss)
        step.update()
        self.losses.append(loss.item())
        return loss, logits

    def evaluated(self, network, batches):
        return copy.deepcopy(network).float()


@pytest.mark.parametrize("network", ["pointnet", "dgcnn"])
def test_an_epoch_in_the_plain_form_has_the_fused_loss_curve(network, folder, tmp_path):
    """The same noise and dropout at each step: after an epoch of Adam no loss has moved by more than 1e-6."""
    curves = []
    for form in (contextlib.nullcontext, unfused):
        method = InFloat64(form)
        Run(
            small(folder, network=network, epochs=1, batch_size=4, out=tmp_path / form.__name__), [method]
        ).train()
        curves.append(method.losses)
    assert len(set(curves[0])) == len(curves[0]) > 5
    assert curves[1] == pytest.approx(curves[0], rel=0, abs=1e-6)
