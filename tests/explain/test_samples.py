"""What a figure of some samples of a split is of: each class's share, also where the file is sorted by class."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.compress.run import measures
from dropfold.explain.run import image_units, images, scores, videos
from dropfold.explain.run.found import Clouds, Found
from dropfold.explain.run.images import Images
from dropfold.models import ImageClassifier, ResNet
from dropfold.train.data.splits import Split, spread, stratified

SORTED = torch.arange(5).repeat_interleave(12)  # 60 samples of five classes, one class after another
NAMES = [f"class {c}" for c in range(5)]


def test_of_each_class_its_share():
    label = torch.tensor([0] * 68 + [1] * 10 + [2] * 262)
    chosen = stratified(label, 200)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    counts = torch.bincount(label[chosen])
    assert all(abs(float(count) - 200 / 340 * n) <= 1 for count, n in zip(counts, (68, 10, 262)))
    assert not torch.equal(label[chosen].diff(), torch.zeros(199))
    assert torch.equal(chosen, stratified(label, 200))
    assert stratified(label, 340).tolist() == list(range(340))
    many = nn.functional.one_hot(SORTED, 5)  # labels of [n, classes]
    assert torch.bincount(SORTED[stratified(many, 20)]).tolist() == [4] * 5


def test_spread_over_all():
    assert spread(5, 12).tolist() == [0, 1, 2, 3, 4]
    assert spread(100, 4).tolist() == [0, 33, 66, 99]


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    network = ImageClassifier(ResNet(5, 8, 1), [0.5], [0.3]).eval()
    x = torch.randint(0, 256, (60, 8, 8, 1), dtype=torch.uint8)
    title = [f"image {i}" for i in range(60)]
    return Images(network, x, SORTED, title, NAMES, images.map_layer(network, x))


def test_curves_of_images(pictures, monkeypatch):
    """As the first 20 of the split, they would be of two classes, and the layers drawn anew of one."""
    monkeypatch.setattr(images, "DROPPED", 20)
    monkeypatch.setattr(images, "BATCH", 5)
    found, seen = Found(), []
    original = images.scores_of

    def note(images, network, x, *more):
        seen.append([int((pictures.x == one).all((1, 2, 3)).nonzero()) for one in x])
        return original(images, network, x, *more)

    monkeypatch.setattr(images, "scores_of", note)
    images.explain_curves(pictures, found, pictures, ["random"], SORTED, 0)
    assert torch.bincount(SORTED[found.arrays["dropping/images"]]).tolist() == [4] * 5
    assert [torch.bincount(SORTED[some]).tolist() for some in seen] == [[4] * 5, [1] * 5]
    assert "20 of 60 images, of each class its share, one seed" in found.page["curves"]["text"]
    assert "drawn anew (5 of 60 images, of each class its share)" in found.page["tables"][0]["text"]


def test_images_of_the_page_and_what_drives_units(pictures):
    chosen, found = stratified(SORTED, 10), Found()
    logits = pictures.logits()
    images.explain_maps(pictures, found, logits, logits.argsort(1, descending=True), chosen)
    assert [one["label"] for one in found.page["images"]] == SORTED[chosen].tolist()
    assert [one["title"] for one in found.page["images"]] == [f"image {i}" for i in chosen]
    assert "10 of 60 images, of each class its share" in found.page["notes"][-1]
    found.page["tables"] = []
    image_units.explain_image_units(pictures, found, pictures, logits, "zero", chosen)
    row = found.page["units"]["rows"][0]
    values = image_units.inputs_of(pictures.network, "network.fc", pictures.x)[:, row["unit"]]
    assert all(value == round(float(values[chosen[k]]), 4) for k, _, value in row["shapes"])
    assert "The images that drive it most among the 10 of this page:" in row["words"]


def test_layers_drawn_anew_of_clouds(monkeypatch):
    seen = []

    def cascades(network, x, target, names, seed):
        seen.append(target.tolist())
        return {name: {"fc": torch.ones(len(x))} for name in names}

    def right(*arguments):
        return SimpleNamespace(right=lambda label: torch.ones(5, len(label)))

    monkeypatch.setattr(scores, "cascades", cascades)
    monkeypatch.setattr(scores, "unrelated", lambda *arguments: {"random": torch.zeros(1)})
    monkeypatch.setattr(scores, "dropping", right)
    monkeypatch.setattr(scores, "saliency", lambda network, x, target, name, seed: torch.rand(len(x), 4))
    of_sets = SimpleNamespace(relative=lambda value: 1.0, as_it_is=0, scaled=0)
    monkeypatch.setattr(scores, "infidelity", lambda *arguments: of_sets)
    clouds = Clouds(nn.Identity(), torch.rand(60, 4, 3), SORTED, [], NAMES)
    monkeypatch.setattr(scores, "random_drops", lambda *arguments, **options: None)
    monkeypatch.setattr(scores, "inserted_shares", lambda *arguments: [0.5])
    scores.score_maps(clouds, Found(), ["random"], torch.rand(60, 5), SORTED, 0)
    counts = np.bincount(seen[0], minlength=5)
    assert sum(counts) == scores.BATCH
    assert min(counts) >= 3


def test_clips_of_the_page(monkeypatch):
    class Whole:
        frames, logit, notes = torch.zeros(60, 2), torch.zeros(60), ()

        def to_json(self):
            return {}

        def __len__(self):
            return 60

    monkeypatch.setattr(videos, "join", lambda pieces: Whole())
    monkeypatch.setattr(videos, "explain", lambda *arguments, **options: None)
    monkeypatch.setattr(videos, "clip_of", lambda whole, inputs, i, *more: i)
    found = videos.explain_videos(None, (torch.zeros(60, 2, 1, 1, 3),), SORTED, [""] * 60, NAMES)
    counts = np.bincount(SORTED[found.page["clips"]])
    assert len(counts) == 5
    assert min(counts) >= 2
    assert "12 of 60 clips, of each class its share" in found.page["notes"][-1]


def test_explanations_that_are_kept_are_of_all_classes(monkeypatch):
    """Of a test split that is smaller than a batch, too, and of clouds or images as evaluation sees them."""
    x = torch.rand(60, 8, 8, 1)
    seen = []

    class Maps:
        target = None

        def __init__(self, x):
            self.x = x

        def __len__(self):
            return len(self.x)

        def sample(self, i):
            return self.x[i]

    monkeypatch.setattr(
        measures, "explain", lambda network, inputs, *a, **o: seen.append(inputs[0]) or Maps(inputs[0])
    )
    trained = SimpleNamespace(
        config=SimpleNamespace(task="images", batch_size=128),
        network=nn.Linear(1, 1),
        data=SimpleNamespace(test=Split((x,), SORTED, np.arange(60))),
    )
    found = measures.explanations_kept(trained, trained)
    assert found == {"rank correlation": pytest.approx(1.0), "samples": 16}
    places = [int((x == one).all((1, 2, 3)).nonzero()) for one in seen[0]]
    assert min(np.bincount(SORTED[places], minlength=5)) >= 3
