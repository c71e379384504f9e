"""CIFAR's recipes: the rate of every epoch against torch's MultiStepLR, and the other settings, by the two papers."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from dropfold.train.config.recipes import recipe
from dropfold.train.engine.schedule import learning_rate

RESNETS = ("cifar10-resnet20", "cifar10-resnet32", "cifar10-resnet56")


def rates(epochs, drops):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler, found = MultiStepLR(optimizer, drops, 0.1), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "epochs", "drops"),
    [*((name, 164, [82, 123]) for name in RESNETS), ("cifar10-vgg16", 300, [150, 225])],
)
def test_the_rate_of_every_epoch(name, epochs, drops):
    config = recipe(name)
    assert config.epochs == epochs
    for step in (0, 200):
        found = [learning_rate(config, epoch, step, 390) for epoch in range(epochs)]
        assert found == pytest.approx(rates(epochs, drops), rel=1e-9)


@pytest.mark.parametrize("name", RESNETS)
def test_he_et_al(name):
    """64,000 steps, the rate falls at 32,000 and 48,000; to within half an epoch of whole batches."""
    config = recipe(name)
    steps = 50_000 // config.batch_size
    assert steps == 390
    for epoch, published in zip((*config.lr_drops, config.epochs), (32_000, 48_000, 64_000)):
        assert abs(epoch * steps - published) <= steps / 2
    assert (config.batch_size, config.weight_decay, config.optimizer) == (128, 1e-4, "sgd")
    assert (config.padding, config.flip, config.label_smoothing, config.dropout) == (4, True, 0.0, 0.0)
    assert config.network == name.removeprefix("cifar10-")
    assert config.train_on_validation


def test_lin_et_al():
    config = recipe("cifar10-vgg16")
    assert (config.batch_size, config.weight_decay, config.optimizer) == (256, 5e-4, "sgd")
    assert (config.network, config.padding, config.flip) == ("vgg16", 4, True)


def test_drops_take_the_place_of_equal_steps_and_count_what_the_schedule_is_ahead():
    config = recipe("cifar10-resnet20")
    config.lr_drops, config.lr_ahead = (2, 5), 1
    assert [learning_rate(config, epoch) for epoch in range(6)] == pytest.approx(
        [0.1, 0.01, 0.01, 0.01, 0.001, 0.001]
    )
    config.lr_drops, config.lr_epochs = (), 3
    assert [learning_rate(config, epoch) for epoch in range(6)] == pytest.approx(
        [0.1, 0.1] + 3 * [0.01] + [0.001]
    )
