"""A run against a plain loop in torch: each option, switched on once, changes the weights exactly as its formula says.

The loop knows the networks and the batches of a task and nothing else of the engine: seeds, loss, penalty, clipping,
optimiser, schedule, momentum and re-estimation are written out here. Each case also runs the loop without its option,
whose weights must be far away: a case that could not fail is an error.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dropfold.data_scripts.schemas import scene_schema
from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import AugmentConfig, NoiseConfig
from dropfold.train.engine.run import Run
from dropfold.train.scoring import metrics
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import registry
from tests.train.conftest import small, small_video
from tests.train.small_segmentation import CLASSES, room, small_parts, small_scenes, write_shapes

# Distance of two ends of training, as a share of the way from the start. Both run the same float32 kernels on the same
# batches; the optimiser is one fused pass there and a few operations here, which round apart by 2^-24 a step. PointNets
# carry that on nearly linearly (a maximum that changes its point moves one gradient of 1,024); DGCNN's graphs would not.
SAME = 5e-4
OTHER = 20 * SAME  # what leaving the option out must change at least


def seed_of(*numbers):
    """The engine's docstring: a step is a function of (seed, epoch, step), its noise of the rank, too."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def cross_entropy(logits, label, smoothing, weight):
    """-sum_c q_c log softmax(logits)_c: q is 1 - smoothing at the label, and the rest in equal parts at the others."""
    classes = logits.shape[-1]
    logits, label = logits.reshape(-1, classes), label.reshape(-1)
    q = torch.full_like(logits, smoothing / (classes - 1))
    q[torch.arange(len(label)), label] = 1 - smoothing
    q_log_p = torch.where(q > 0, q * logits.log_softmax(1), 0)  # 0 log 0 = 0
    each = weight[label] if weight is not None else torch.ones(len(label))
    return -(each * q_log_p.sum(1)).sum() / each.sum()


def binary_cross_entropy(logits, label):
    p = logits.sigmoid()
    return -(label * p.log() + (1 - label) * (1 - p).log()).mean()


def third_root_weights(label, classes):
    counts = np.bincount(label, minlength=classes)
    return torch.from_numpy((counts.max() / counts) ** (1 / 3)).float()


def rates(config, steps):
    """The learning rate of each step, by torch's schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], config.lr)
    total = config.epochs * steps
    schedule = torch.optim.lr_scheduler
    if config.schedule == "one-cycle":
        scheduler = schedule.OneCycleLR(
            optimizer,
            config.lr,
            total_steps=total,
            div_factor=25,
            final_div_factor=10_000,
            cycle_momentum=False,
        )
    elif config.schedule == "cosine":
        scheduler = schedule.CosineAnnealingLR(optimizer, config.epochs, config.lr_end)
    else:
        scheduler = schedule.StepLR(optimizer, config.lr_epochs, config.lr_factor)
    found = []
    for step in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if config.schedule == "one-cycle" or (step + 1) % steps == 0:
            scheduler.step()
    return found


class Sgd:
    """v = 0.9 v + g + decay w;  w -= rate v."""

    def __init__(self):
        self.v = None

    def __call__(self, w, g, rate, decay):
        g = g + decay * w
        self.v = g if self.v is None else 0.9 * self.v + g
        return w - rate * self.v


class Adam:
    """Kingma and Ba 2015, algorithm 1, on g + decay w."""

    def __init__(self):
        self.m, self.v, self.t = 0.0, 0.0, 0

    def __call__(self, w, g, rate, decay):
        g = g + decay * w
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return w - rate * m / (v.sqrt() + 1e-8)


def penalty_of(network, config):
    """A list that each forward fills with lambda mean |I - A A^T| of its feature transforms A [B, k, k]; or None."""
    transform = getattr(network, "feature_transform", None)
    if transform is None:
        return None
    found = []

    def hold(module, inputs, a):
        away = torch.eye(a.shape[1]) - torch.einsum("bij,bkj->bik", a, a)
        found.append(config.regularization * (away**2).sum((1, 2)).sqrt().mean())

    transform.register_forward_hook(hold)
    return found


def plain_loop(config, rank=0, processes=1, noise_epoch=lambda epoch: epoch, length=None):
    """Train a network of `config` as one rank of some does; returns its first state, the network, and records of steps.
    `length`: epochs that the schedule is made for, where the loop ends before."""
    task = registry.task_of(config)
    data = task.load(config)
    steps = task.samples(data.train, config) // config.batch_size
    torch.manual_seed(config.seed)
    network = task.build(config, data.signature, steps)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    update = {"sgd": Sgd, "adam": Adam}[config.optimizer]
    optimizers = [update() for _ in network.parameters()]
    penalties, rate = (
        penalty_of(network, config),
        rates(replace(config, epochs=length or config.epochs), steps),
    )
    family, weight = getattr(data.train, "part_category", None), None
    if getattr(config, "class_weights", False):
        label = np.concatenate([data.train.scenes.room(i).label for i in data.train.index])
        weight = third_root_weights(label, len(data.signature.class_names))
    records = []
    for epoch in range(config.epochs):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d) and hasattr(config, "norm_decay"):
                module.momentum = max(0.01, 0.1 * config.norm_decay ** (epoch // config.lr_epochs))
        for step, (inputs, label) in enumerate(task.batches(data.train, config, epoch, rank, processes)):
            network.train()
            torch.manual_seed(seed_of(config.seed, noise_epoch(epoch), step, rank))
            logits = network(*inputs)
            if getattr(config, "own_parts", False):
                other = family != family[label][..., None]
                logits = logits.masked_fill(other, -torch.inf)
            if label.is_floating_point():
                loss = binary_cross_entropy(logits, label)
            else:
                loss = cross_entropy(logits, label, config.label_smoothing, weight)
            if penalties is not None:
                loss = loss + penalties.pop()
            parameters = list(network.parameters())
            gradients = torch.autograd.grad(loss, parameters)
            norm = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
            if config.clip is not None and norm > config.clip:
                gradients = [g * (config.clip / norm) for g in gradients]
            with torch.no_grad():
                for optimizer, w, g in zip(optimizers, parameters, gradients, strict=True):
                    w.copy_(optimizer(w, g, rate[epoch * steps + step], config.weight_decay))
            found = logits > 0 if label.is_floating_point() else logits.argmax(-1)
            right = float((found == label).float().mean())
            records.append((epoch, rate[epoch * steps + step], loss.item(), right, norm))
    return start, network, records


def way(start, end, other):
    """Distance of two ends, as a share of the way from the start to the first; floating-point weights and statistics."""
    apart = gone = 0.0
    for name, value in end.items():
        if name.startswith("noise."):  # the rate and step of a schedule
            continue
        if value.is_floating_point():
            apart += float((value - other[name]).double().square().sum())
            gone += float((value - start[name]).double().square().sum())
    return (apart / gone) ** 0.5


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_uneven_rooms(path):
    """Rooms of three areas, four fifths of whose points are floor."""
    random = np.random.default_rng(0)
    with scene_schema.writer(path, CLASSES, "made for tests", "none", "run the tests") as writer:
        for i in range(6):
            points, colour, label = room(random, 400)
            label[random.uniform(size=400) < 0.8] = CLASSES.index("floor")
            writer.add(f"Area_{i % 3 + 1}/room_{i}", i % 3 + 1, points, colour, label)


@pytest.fixture(scope="module")
def folders(folder, video_folder, tmp_path_factory):
    """The data of each task."""
    segmentation = tmp_path_factory.mktemp("segmentation")
    write_shapes(segmentation / "parts.h5")
    write_uneven_rooms(segmentation / "rooms.h5")
    return {"clouds": folder, "video": video_folder, "parts": segmentation, "scenes": segmentation}


PLAIN = {
    "network": "pointnet",
    "transforms": False,
    "regularization": 0.0,
    "noise": NoiseConfig("none"),
    "dropout": 0.0,
    "epochs": 2,
    "lr": 0.01,
    "label_smoothing": 0.0,
    "weight_decay": 0.0,
    "optimizer": "sgd",
    "schedule": "cosine",
}
WHOLE = PLAIN | {"transforms": True, "epochs": 1, "lr": 3e-4}  # T-Nets make gradients long
DENSE = {"mega": FormatSpec(), "epochs": 2, "clip": None, "dropout": 0.0, "recurrent_dropout": 0.0}
CASES = {
    "clip": ("clouds", PLAIN | {"clip": 0.3}, {"clip": None}),
    "label smoothing": ("clouds", PLAIN | {"label_smoothing": 0.4}, {"label_smoothing": 0.0}),
    "weight decay, sgd": ("clouds", PLAIN | {"weight_decay": 0.5}, {"weight_decay": 0.0}),
    "weight decay, adam": ("video", DENSE | {"weight_decay": 0.5}, {"weight_decay": 0.0}),
    "adam": ("video", DENSE, {"optimizer": "sgd"}),
    "cosine": ("clouds", PLAIN | {"epochs": 3, "lr_end": 0.001}, {"lr_end": 0.01}),
    "step": (
        "clouds",
        PLAIN | {"epochs": 3, "schedule": "step", "lr_factor": 0.3, "lr_epochs": 2},
        {"lr_factor": 1.0},
    ),
    "one-cycle": ("clouds", PLAIN | {"schedule": "one-cycle", "epochs": 3}, {"schedule": "cosine"}),
    "penalty": ("clouds", WHOLE | {"regularization": 0.05}, {"regularization": 0.0}),
    "penalty, parts": ("parts", WHOLE | {"batch_size": 7, "regularization": 0.05}, {"regularization": 0.0}),
    "norm decay": (
        "clouds",
        PLAIN | {"norm_decay": 0.2, "lr_epochs": 2, "epochs": 5, "lr": 0.002},
        {"norm_decay": 1.0},
    ),
    "dropout": ("clouds", PLAIN | {"dropout": 0.5}, {"dropout": 0.0}),
    "noise": (
        "clouds",
        PLAIN | {"noise": NoiseConfig("cluster", p=0.5, k=4)},
        {"noise": NoiseConfig("none")},
    ),
    "warm-up": (
        "clouds",
        PLAIN | {"noise": NoiseConfig("point", p=0.8, warmup_epochs=2.0)},
        {"noise": NoiseConfig("point", p=0.8)},
    ),
    "recurrent dropout": ("video", DENSE | {"recurrent_dropout": 0.4}, {"recurrent_dropout": 0.0}),
    "own parts": ("parts", WHOLE | {"own_parts": True}, {"own_parts": False}),
    "class weights": (
        "scenes",
        WHOLE | {"class_weights": True, "lr": 1e-4, "blocks": 8},
        {"class_weights": False},
    ),
    "augmentation": (
        "clouds",
        PLAIN | {"augment": AugmentConfig(shift=0.5)},
        {"augment": AugmentConfig(shift=0.0)},
    ),
    "many labels": ("video", DENSE | {"data": "labels.h5"}, {"lr": 1e-3}),
    "seed": ("clouds", PLAIN | {"dropout": 0.3, "seed": 5}, {"seed": 4}),
}
SMALL = {"clouds": small, "video": small_video, "parts": small_parts, "scenes": small_scenes}


def configured(folders, task, **options):
    if "data" in options:
        options["data"] = folders[task] / options["data"]
    if task == "scenes":
        options.setdefault("validation_blocks", 1)
    return SMALL[task](folders[task], **options)


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_a_plain_loop(case, folders, tmp_path):
    task, options, without = CASES[case]
    config = configured(folders, task, **options, out=tmp_path / "run")
    start, network, records = plain_loop(config)
    Run(config).train()
    found = load_file(tmp_path / "run/model.safetensors")
    assert way(start, network.state_dict(), found) < SAME
    _, other, _ = plain_loop(replace(config, **without))
    assert way(start, network.state_dict(), other.state_dict()) > OTHER
    for row in rows_of(tmp_path / "run"):
        mine = [record for record in records if record[0] == row["epoch"]]
        assert row["lr"] == pytest.approx(mine[-1][1], rel=1e-6)
        assert row["train/loss"] == pytest.approx(np.mean([r[2] for r in mine]), rel=SAME)
        # A sample between two classes may fall on either side.
        assert row["train/accuracy"] == pytest.approx(np.mean([r[3] for r in mine]), abs=0.03)
        assert row["gradient_norm"] == pytest.approx(np.mean([r[4] for r in mine]), rel=20 * SAME)


class Stop(Exception):
    """A kill, as a test can see it."""


def train_until(epoch, config):
    """Train, and stop with `Stop` where the batches of an epoch are asked for."""
    module = registry.TASKS[config.task]
    batches = module.batches

    def asked(split, config, at, *share):
        if at == epoch:
            raise Stop
        return batches(split, config, at, *share)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "batches", asked)
        Run(config).train()


def train_as(config, rank, processes):
    """The network that a run has trained as one rank of some, alone: gradients are those of its share of each batch."""
    run = Run(config)
    run.rank, run.processes = rank, processes
    run.train()
    return {name: value.detach().clone() for name, value in run.network.state_dict().items()}


def test_each_rank_has_its_share_and_noise_of_its_own(folders, tmp_path):
    options = PLAIN | {"noise": NoiseConfig("point", p=0.5), "dropout": 0.3, "batch_size": 30}
    config = configured(folders, "clouds", **options)
    ends = []
    for rank in range(2):
        start, network, _ = plain_loop(config, rank, 2)
        found = train_as(replace(config, out=tmp_path / str(rank)), rank, 2)
        assert way(start, network.state_dict(), found) < SAME
        ends.append(network.state_dict())
    assert way(start, *ends) > OTHER


RESUMED = {
    "sgd": (
        "clouds",
        PLAIN
        | {"noise": NoiseConfig("point", p=0.6, warmup_epochs=2.5), "dropout": 0.5, "epochs": 3}
        | {"norm_decay": 0.5, "lr_epochs": 1},
    ),
    "adam": ("video", DENSE | {"dropout": 0.3, "recurrent_dropout": 0.3, "epochs": 3}),
}


@pytest.mark.parametrize("optimizer", RESUMED)
def test_a_stopped_run_goes_on_as_the_plain_loop(optimizer, folders, tmp_path):
    """Noise, dropout, warm-up, momenta and schedule after a resume; each epoch's noise is its own."""
    task, options = RESUMED[optimizer]
    config = configured(folders, task, **options)
    start, network, _ = plain_loop(config)
    with pytest.raises(Stop):
        train_until(2, replace(config, out=tmp_path / "run"))
    assert not (tmp_path / "run/summary.json").exists()
    Run(replace(config, resume=tmp_path / "run")).train()
    assert way(start, network.state_dict(), load_file(tmp_path / "run/model.safetensors")) < SAME
    _, other, _ = plain_loop(config, noise_epoch=lambda epoch: 0)
    assert way(start, network.state_dict(), other.state_dict()) > OTHER


def test_an_early_best_epoch_survives_a_stop(folders, tmp_path, monkeypatch):
    """Reported beside the last epoch: the best, of equals the later; also where the run was stopped between."""
    module, reached = registry.TASKS["clouds"], iter([0.9, 0.4, 0.9, 0.8, *[0.1] * 9])
    monkeypatch.setattr(
        module, "scores", lambda *_: metrics.Scores({"overall_accuracy": next(reached)}, 0.0, torch.zeros(3))
    )
    monkeypatch.setattr("dropfold.train.engine.run.write_report", lambda *_: None)  # it shows real scores
    config = configured(folders, "clouds", **PLAIN | {"epochs": 4}, validate_every=1)
    with pytest.raises(Stop):
        train_until(3, replace(config, out=tmp_path / "run"))
    summary = Run(replace(config, resume=tmp_path / "run")).train()
    assert summary["test_at_best_validation/epoch"] == 3
    start, third, _ = plain_loop(replace(config, epochs=3), length=4)
    assert way(start, third.state_dict(), load_file(tmp_path / "run/best.safetensors")) < SAME


def as_trained_without_noise(network, config, data, steps):
    """The same weights in a network that was built without noise and dropout."""
    task = registry.task_of(config)
    clean = task.build(replace(config, noise=NoiseConfig("none"), dropout=0.0), data.signature, steps)
    clean.load_state_dict(network.state_dict(), strict=False)
    return clean


@pytest.mark.parametrize(("task", "layer"), [("clouds", "conv1"), ("parts", "edge1"), ("scenes", "edge1")])
def test_noise_before_a_norm_is_taken_out_of_its_statistics(task, layer, folders, tmp_path):
    """Evaluated are the trained weights, and as statistics the mean over an epoch's batches of each one's own."""
    options = PLAIN | {
        "noise": NoiseConfig("point", p=0.5, layers=(layer,)),
        "dropout": 0.5,
        "epochs": 1,
        "lr": 0.002,
    }
    if layer != "conv1":
        options |= {"network": "dgcnn", "lr": 1e-4}
    config = configured(folders, task, **options, out=tmp_path / "run")
    start, network, _ = plain_loop(config)
    Run(config).train()
    found = load_file(tmp_path / "run/model.safetensors")
    module = registry.TASKS[task]
    data = module.load(config)
    clean = as_trained_without_noise(network, config, data, 1).train()
    norms = {name: norm for name, norm in clean.named_modules() if isinstance(norm, nn.BatchNorm1d)}
    means, variances, count = dict.fromkeys(norms, 0.0), dict.fromkeys(norms, 0.0), 0
    for inputs, _ in module.batches(data.train, config, config.epochs):
        for norm in norms.values():
            norm.momentum = 1.0
        clean(*inputs)
        count += 1
        for name, norm in norms.items():
            means[name] = means[name] + norm.running_mean
            variances[name] = variances[name] + norm.running_var
    for name in norms:
        for kind, total in (("mean", means), ("var", variances)):
            ours, theirs = total[name] / count, found[f"{name}.running_{kind}"]
            trained = network.state_dict()[f"{name}.running_{kind}"]
            # As float32 weights that are rounded apart, and where DGCNN's graphs may have changed a neighbour.
            assert (ours - theirs).norm() < 0.01 * ours.norm(), f"{name}.running_{kind}"
            assert (ours - trained).norm() > 0.1 * ours.norm(), f"{name}.running_{kind}"
    # The network that trains on keeps its own statistics: a resumed run begins from them.
    kept = checkpoint.load_state(tmp_path / "run/checkpoint.pt")["model"]
    assert way(start, network.state_dict(), kept) < (SAME if layer == "conv1" else OTHER)
    weights = {name: value for name, value in network.state_dict().items() if "running" not in name}
    assert way(start, weights, found) < (SAME if layer == "conv1" else OTHER)
