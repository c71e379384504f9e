"""What a network is explained with: rows and their samples, modes of autograd, targets and names; and what is refused."""

import pytest
import torch
from torch import nn

from dropfold import models
from dropfold.explain import ablate, each_unit, explain, saliency
from dropfold.explain.cut.inputs import Inputs
from tests.explain.conftest import X, randomized, small_pointnet

EXACT = 1e-10  # as in test_account


class Rows(nn.Module):
    """A user's network of rows [M, 3] that adds each sample up itself, so that rows may have any order."""

    def __init__(self):
        super().__init__()
        self.in_channels = 3
        self.layer, self.head = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x, batch):
        f = self.layer(x).relu()
        return self.head(f.new_zeros(int(batch.max()) + 1, 6).index_add(0, batch, f))


def test_batch_beside_rows_goes_to_the_network(clouds):
    """Both clouds are explained, as each alone is."""
    network, batch = small_pointnet(), torch.arange(3).repeat_interleave(48)
    for given in (torch.int64, torch.int32):
        found = explain(network, clouds.flatten(0, 1), 1, batch=batch.to(given))
        assert torch.allclose(found.logit, network(clouds)[:, 1])
        for i in range(3):
            alone = explain(network, clouds[i : i + 1], 1)
            assert torch.allclose(found.sample(i), alone.scores[0], rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="leave one of the two out"):
        explain(network, {"x": clouds.flatten(0, 1), "batch": batch}, 1, batch=batch)
    with pytest.raises(TypeError, match="multiple values for argument 'batch'"):
        explain(network, (clouds.flatten(0, 1), batch), 1, batch=batch)


def test_two_axes_are_a_cloud_in_rows_for_dropfolds_networks_alone(clouds):
    """A user's network may have in_channels, too: each of its rows is a sample."""
    network = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    network.in_channels = 3
    x = clouds[0, :5]
    found = explain(network, x, 1, layer="1", channels=-1)
    assert torch.allclose(found.logit, network(x)[:, 1])
    ours = small_pointnet()
    assert torch.allclose(explain(ours, clouds[0], 1).logit, ours(clouds[:1])[:, 1])


def test_rows_of_a_users_network_in_another_order_are_refused():
    network, x = Rows().double(), torch.randn(5, 3, **X)
    options = {"layer": "layer", "channels": -1}
    found = explain(network, (x, torch.tensor([0, 0, 0, 1, 1])), 2, **options)
    for i, part in enumerate((x[:3], x[3:])):
        alone = explain(network, (part, torch.zeros(len(part), dtype=torch.int64)), 2, **options)
        assert torch.allclose(found.sample(i), alone.scores, rtol=1e-9)
        assert torch.allclose(found.logit[i], alone.logit[0])
    for wrong in ([1, 0, 1, 0, 0], [0, 1, 0, 1, 1]):
        with pytest.raises(ValueError, match=r"batch must be sorted.*argsort"):
            explain(network, (x, torch.tensor(wrong)), 2, **options)
    with pytest.raises(ValueError, match="the inputs have not as many"):
        Inputs.of(network, (x, torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ValueError, match="batch must be a 1-D integer tensor"):
        Inputs.of(network, (x, torch.zeros(5)))
    with pytest.raises(ValueError, match="got a list"):
        Inputs.of(network, (x, [0, 0, 0, 1, 1]))


def test_a_sample_without_rows_is_no_error():
    found = explain(
        Rows().double(), (torch.randn(4, 3, **X), torch.tensor([0, 0, 2, 2])), 2, layer="layer", channels=-1
    )
    assert found.sample(1).shape == (0,)


def test_an_argument_named_batch_that_is_the_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, batch):
            return self.head(self.layer(batch).relu())

    network, x = Net().double(), torch.randn(4, 6, **X)
    assert torch.allclose(explain(network, x, 1, layer="layer", channels=-1).logit, network(x)[:, 1])


def test_batch_of_dense_clouds_and_logits_of_others_are_refused(clouds):
    with pytest.raises(ValueError, match=r"Leave it out of dense clouds"):
        explain(small_pointnet(), clouds, 1, batch=torch.arange(3).repeat_interleave(48))

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x).mean(0, keepdim=True)

    with pytest.raises(ValueError, match=r"logits of each of 5 samples; got \[1, 4\]"):
        explain(Mean().double(), clouds[0, :5], 1, layer="layer", channels=-1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_of_autograd_changes_nothing(mode, clouds):
    network, target = small_pointnet(), torch.tensor([2, 0, 4])
    expected = explain(network, clouds, 2)
    scores = saliency(network, clouds, target, "zheng")
    with mode():
        x = clouds.clone()  # an inference tensor in inference mode
        found = explain(network, x, 2)
        assert saliency(network, x, target, "zheng").equal(scores)
        assert torch.allclose(ablate(network, x, units=[3]), each_unit(network, x)[3], rtol=1e-9)
    assert found.scores.equal(expected.scores)
    assert found.account["bias"].equal(expected.account["bias"])


def test_a_frozen_layer_is_refused_and_a_layer_without_a_gradient(clouds):
    network = randomized(models.PointNet(5))
    for layer in ("input_transform", "feature_transform.fc2"):
        with pytest.raises(ValueError, match=r"_transform' is frozen.*frozen=False"):
            explain(network, clouds, 1, layer=layer)
    assert explain(network, clouds, 1, layer="feature_transform.conv2", frozen=False).scores.shape == (3, 48)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.body(x).detach().relu())

    with pytest.raises(ValueError, match="no gradient goes from the logits to 'body'"):
        explain(Detached().double(), clouds[:, 0], 1, layer="body", channels=-1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 77}, "at 'conv2' channels are the last axis; got channels=77"),
        ({"layer": "conv2", "channels": 1}, "at 'conv2' channels are the last axis"),
        ({"layer": "conv1", "channels": 7}, "channels must be an axis"),
        ({"target": "chair"}, "number of a class.*got 'chair'"),
        ({"target": True}, "number of a class.*got True"),
        ({"target": torch.tensor([True, False, True])}, "number of a class"),
        ({"target": 0.5}, "number of a class"),
        ({"class_names": ["a", "b"]}, "must name all 5 classes; got 2"),
    ],
)
def test_refused(options, said, clouds):
    with pytest.raises(ValueError, match=said):
        explain(small_pointnet(), clouds, **options)


def test_channels_of_images_are_at_their_axis():
    network = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    x = torch.rand(2, 3, 6, 6, **X)
    assert explain(network, x, 1, channels=1).scores.equal(explain(network, x, 1).scores)
    with pytest.raises(ValueError, match=r"are at axis 1; got channels=-1"):
        explain(network, x, 1, channels=-1)


def test_explanations_of_other_samples_networks_and_ways_are_not_subtracted(clouds):
    network = randomized(models.PointNet(5))
    found = explain(network, clouds, 2)
    assert torch.allclose(
        found.contrast(explain(network, clouds, 0)).logit,
        network(clouds) @ torch.tensor([-1.0, 0, 1, 0, 0], **X),
    )
    for other, what in (
        (explain(network, clouds.flip(0), 0), "differ in their points"),
        (explain(network, clouds.flip(1), 0), "differ in their points"),
        (explain(randomized(models.PointNet(5)), clouds, 0), "differ in their logits"),
        (explain(network, clouds, 0, frozen=False), "frozen=False"),
    ):
        with pytest.raises(ValueError, match=what):
            found.contrast(other)


def test_samples_are_counted_from_the_end_too(clouds, tmp_path):
    network, batch = small_pointnet(), torch.arange(3).repeat_interleave(48)
    for found in (explain(network, clouds, 2), explain(network, clouds.flatten(0, 1), 2, batch=batch)):
        assert found.sample(-1).equal(found.sample(2))
        assert found.sentence(-3) == found.sentence(0)
        found.to_ply(tmp_path / "last.ply", -1)
        found.to_ply(tmp_path / "2.ply", 2)
        assert (tmp_path / "last.ply").read_bytes() == (tmp_path / "2.ply").read_bytes()
        for i in (3, -4):
            with pytest.raises(IndexError, match="there are 3 samples"):
                found.to_ply(tmp_path / "none.ply", i)
