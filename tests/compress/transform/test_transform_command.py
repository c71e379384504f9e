"""`dropfold transform` from a run to a cheaper run, interrupted anywhere, and what it refuses."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from dropfold.__main__ import main
from dropfold.compress.cost.times import Times, times_of
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.run import measures
from dropfold.compress.run.record import begun, example_of
from dropfold.compress.transform import run as stages
from dropfold.compress.transform import scores
from dropfold.compress.transform.architecture import Architecture, parse_key
from dropfold.compress.transform.families import family_of, network_of
from dropfold.compress.transform.supernet import TrainSupernet
from dropfold.models.layers.noise import Drop
from dropfold.models.layers.unfused import unfused
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    bars,
    folder,
    furniture,
    image_folder,
    small,
    small_images,
)
from tests.train.engine.test_integrity import Interrupt, Interrupted


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    """Times are not what is tested."""
    monkeypatch.setattr(measures, "times_of", lambda *given, **_: times_of(*given, seconds=0))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small(folder, out=out, epochs=2)).train()
    return out


def transform(run, out, *more):
    target = [] if "--target" in more else ["--target", "macs", "0.6"]
    words = ["--scores", "6", "--epochs", "1", "--supernet-epochs", "1"]
    main(["transform", str(run), "--out", str(out), *target, *words, *more])


def refused(*words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert ended.value.code == 1 or isinstance(ended.value.code, str)
    return capsys.readouterr().err + str(ended.value.code)


@pytest.fixture
def _no_measures(monkeypatch):
    """Nothing is measured at the end."""
    monkeypatch.setattr(stages, "finish", lambda _, found, *__: found.update(cost={}))


def test_a_cheaper_run_out_of_a_run(run, tmp_path, capsys):
    out = tmp_path / "small"
    transform(run, out)
    assert "overall accuracy, trained on" in capsys.readouterr().out
    found, trained, whole = load_json(out / "compression.json"), Trained.of(out), Trained.of(run)
    operations = found["operations"]
    assert trained.config.operations == trained.network.operations() == operations
    assert Architecture.from_json((out / "architecture.json").read_text()).operations() == operations
    example = example_of(whole)
    before, after = (multiply_adds(work_of(t.network, *example)) for t in (whole, trained))
    assert after <= 0.6 * before
    key = " ".join(f"{name}={operation}" for name, operation in operations.items())
    assert found["architectures"][key][2] == pytest.approx(after / before)
    within = [k for k in found["rewards"] if found["architectures"][k][2] <= 0.6]
    assert key == max(within, key=found["rewards"].get)
    assert len(found["rewards"]) == 6
    assert set(found["singles"]) == {n for n, o in operations.items() if o != f"edge_conv_{whole.config.k}"}
    page = (out / "report.html").read_text()
    for words in (
        "The architecture, before and after",
        "What was scored",
        f"dropfold transform {run} --target macs 0.6",
    ):
        assert words in page
    main(["evaluate", str(out)])
    assert "overall accuracy" in capsys.readouterr().out
    weights = (out / "model.safetensors").read_bytes()
    transform(run, out)  # again: nothing is left to do
    assert (out / "model.safetensors").read_bytes() == weights
    assert (out / "report.html").read_text() == page
    for word in ("transform", "compress"):
        assert "is transformed already" in refused(word, out, capsys=capsys)
    with pytest.raises(ValueError, match="other operations than its config builds, by `dropfold transform`"):
        Run(replace(whole.config, start=out, out=tmp_path / "more"))


def test_from_new_weights_by_the_policy_to_milliseconds(run, tmp_path, monkeypatch):
    """A latency target is met by what is timed itself, not by the table alone; what was timed is kept."""
    asked = []

    def table(network, space, example):
        added = {
            name: {o: -0.4 * i for i, o in enumerate(options)} for name, options in space.options.items()
        }
        return {"original": 4.0, "least": 0.5, "added": added}

    def times(networks, *_):
        asked.append(networks)
        if len(asked) == 4:
            raise Interrupted
        return [Times(p, p, p) for p in (4.0, 3.0 if len(asked) < 4 else 1.0)]

    monkeypatch.setattr(stages, "time_table", table)
    monkeypatch.setattr(stages, "times_of", times)
    out = tmp_path / "small"
    words = (
        "--keep",
        "edge2",
        "--target",
        "latency",
        "0.7",
        "--search",
        "policy",
        "--weights",
        "new",
        "--scores",
        "12",
    )
    with pytest.raises(Interrupted):
        transform(run, out, *words)
    first = load_json(out / "compression.json")["timed"]
    assert list(first.values()) == [0.75]
    transform(run, out, *words)
    found = load_json(out / "compression.json")
    assert list(found["timed"].values()) == [0.75, 0.25]
    assert next(iter(found["timed"])) == next(iter(first))
    assert found["operations"] == parse_key(list(found["timed"])[1])
    assert "trained anew" in found["scores"]
    assert found["operations"]["edge2"] == "edge_conv_5"
    assert len(found["probabilities"][0]) == 4
    page = (out / "report.html").read_text()
    for words in ("probabilities", "What each operation adds to the time", "--keep edge2"):
        assert words in page
    with pytest.raises(ValueError, match="begun with search policy, and this asks for random"):
        begun(out, {"search": "random"})


def test_another_search_or_target_goes_on_from_what_was_scored(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "small"
    options = "--epochs", 1, "--supernet-epochs", 1, "--out", out
    said = refused("transform", run, *options, "--target", "macs", 0.6, "--scores", 1, capsys=capsys)
    assert "none of the 1 architectures that were scored meets it; give more --scores" in said
    weights = (out / "supernet" / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(stages, "finish", lambda _, found, *__: found.update(cost={}))
    transform(run, out, "--target", "macs", "0.7", "--search", "random")
    assert (out / "supernet" / "checkpoint.pt").read_bytes() == weights
    assert len(load_json(out / "compression.json")["rewards"]) == 6


def test_a_blind_search_takes_the_first_that_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "finish", lambda _, found, *__: found.update(cost={}))
    out = tmp_path / "small"
    transform(run, out, "--search", "blind", "--seed", "5")
    found, whole = load_json(out / "compression.json"), Trained.of(run)
    example = example_of(whole)
    family = family_of(whole.network, *example)
    count = multiply_adds(work_of(whole.network, *example))
    generator = torch.Generator().manual_seed(5)
    while True:
        drawn = family.space.draw(generator)
        if 0.54 * count <= multiply_adds(work_of(network_of(whole.network, drawn), *example)) <= 0.6 * count:
            break
    assert found["operations"] == drawn


def test_a_reward_is_what_the_small_network_says_of_the_validation_split(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "finish", lambda _, found, *__: found.update(cost={}))
    out = tmp_path / "small"
    transform(run, out)
    found, whole = load_json(out / "compression.json"), Trained.of(run)
    config = checkpoint.load_config(out / "supernet")[0]
    family = family_of(whole.network, *example_of(whole))
    supernet = Run(replace(config, resume=out / "supernet"), [TrainSupernet(family)]).network.eval()
    batches = list(islice(whole.task.batches(whole.data.train, whole.config, 0), 4))
    log_p = {}
    for key in list(found["rewards"])[:3]:
        network = supernet.restricted(parse_key(key)).train()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
        for module in network.modules():
            if isinstance(module, Drop | nn.Dropout):
                module.eval()
        with torch.no_grad(), unfused(network):
            for i, ((x,), _) in enumerate(batches):
                for norm in norms:
                    norm.momentum = 1 / (i + 1)  # the plain mean
                network(x)
        split = whole.data.validation
        with torch.no_grad():
            x = torch.as_tensor(whole.task.inputs(split, whole.config)[0])
            p = network.eval()(x).log_softmax(1)
        log_p[key] = float(p[range(len(split.label)), torch.as_tensor(split.label)].mean())
        assert found["architectures"][key][0] == pytest.approx(log_p[key], abs=1e-3)
    first, *others = log_p
    for key in others:
        penalty = 5 * max(0.0, found["architectures"][key][2] / 0.6 - 1)
        assert found["rewards"][key] == pytest.approx(log_p[key] - log_p[first] - penalty, abs=3e-3)


def test_an_interrupted_transformation_goes_on_to_the_same(run, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole", tmp_path / "cut"
    transform(run, whole, "--seed", "3")

    def stop(*_, **__):
        raise Interrupted

    for name in ("_supernet", "_search", "adapt", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(stages, name, stop)
            with pytest.raises(Interrupted):
                transform(run, out, "--seed", "3")
    transform(run, out, "--seed", "3")
    assert "goes on from what was done before" in capsys.readouterr().err
    for name in ("model.safetensors", "predictions.npz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = load_json(whole / "compression.json"), load_json(out / "compression.json")
    for key in ("architectures", "rewards", "operations", "scores", "singles"):
        assert first[key] == second[key]


@pytest.mark.usefixtures("_no_measures")
def test_a_supernet_and_scores_that_are_interrupted_go_on(run, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "cut"
    transform(run, whole, "--sandwich")
    with monkeypatch.context() as patch:
        patch.setattr(
            stages, "Run", lambda config, methods=(), **more: Run(config, [*methods, Interrupt(0)], **more)
        )
        with pytest.raises(Interrupted):
            transform(run, out, "--sandwich")
    with monkeypatch.context() as patch:
        patch.setattr(
            stages,
            "Run",
            lambda config, methods=(), **more: Run(
                config, [*methods, *[Interrupt(None)] * bool(config.resume)], **more
            ),
        )
        patch.setattr(scores, "KEPT_EVERY", 1)
        score, calls = scores.Scores.measure, []

        def some(self, operations):
            calls.append(operations)
            if len(calls) == 4:
                raise Interrupted
            return score(self, operations)

        patch.setattr(scores.Scores, "measure", some)
        with pytest.raises(Interrupted):
            transform(run, out, "--sandwich")
        assert len(load_json(out / "compression.json")["architectures"]) == 3
        patch.setattr(scores.Scores, "measure", score)
        patch.setattr(stages, "_take", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            transform(run, out, "--sandwich")
    found, expected = (load_json(f / "compression.json")["architectures"] for f in (out, whole))
    assert len(found) >= 6
    assert found.items() <= expected.items()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--target", "macs", "1.5"),
            "--target macs takes a part of the original's, above 0 and below 1; got 1.5",
        ),
        (
            ("--target", "macs", "0.01"),
            "--target macs 0.01 is out of reach: the least that transitions come to is 0.",
        ),
        (("--scores", "0"), "--scores must be above 0; got 0"),
        (("--search", "all"), "all architectures are more than 6"),
    ],
)
def test_bad_options_end_in_a_sentence(run, tmp_path, capsys, words, sentence):
    options = "--epochs", 1, "--supernet-epochs", 1, "--out", tmp_path / "small"
    scores = () if "--scores" in words else ("--scores", 6)
    target = () if "--target" in words else ("--target", "macs", 0.6)
    assert sentence in refused("transform", run, *target, *scores, *options, *words, capsys=capsys)


def test_a_folder_of_other_options_or_of_another_run_is_left_alone(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "small"
    with monkeypatch.context() as patch:
        patch.setattr(stages, "_supernet", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            transform(run, out)
    options = "--epochs", 1, "--supernet-epochs", 1, "--scores", 6, "--target", "macs", 0.5
    said = refused("transform", run, "--out", out, *options, "--sandwich", capsys=capsys)
    assert "was begun with sandwich False, and this asks for True" in said
    assert "layer 'edge9' is not known; there are edge4" in refused(
        "transform", run, "--keep", "edge9", capsys=capsys
    )
    assert "holds a run already" in refused("transform", run, "--out", run, capsys=capsys)


def test_networks_without_transitions_are_refused(folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "pointnet"
    config = small(folder, out=out, epochs=1)
    Run(replace(config, network="pointnet", transforms=False)).train()
    assert "nothing in PointNet can be replaced" in refused("transform", out, capsys=capsys)


@pytest.mark.usefixtures("_no_measures")
def test_images_too(image_folder, tmp_path):  # noqa: F811
    run, out = tmp_path / "whole", tmp_path / "small"
    Run(small_images(image_folder, out=run, epochs=1)).train()
    transform(run, out, "--target", "macs", "0.9", "--scores", "3", "--search", "random")
    whole, trained = Trained.of(run), Trained.of(out)
    assert trained.config.operations == load_json(out / "compression.json")["operations"]
    assert len(trained.config.operations) == 19
    example = example_of(whole)
    before, after = (multiply_adds(work_of(t.network, *example)) for t in (whole, trained))
    assert after <= 0.9 * before


@pytest.mark.usefixtures("_no_measures")
@pytest.mark.parametrize("learnt", [False, True])
def test_the_last_training_learns_what_the_run_did(folder, tmp_path, learnt):  # noqa: F811
    run, out = tmp_path / "whole", tmp_path / "small"
    Run(small(folder, out=run, epochs=1, train_on_validation=learnt)).train()
    transform(run, out, "--scores", "2", "--target", "macs", "0.95", "--search", "random")
    assert Trained.of(out).config.train_on_validation == learnt
    assert not Trained.of(out / "supernet").config.train_on_validation
