"""`dropfold transform` from a run to a cheaper run, interrupted anywhere, and what it refuses."""

from dataclasses import replace

import pytest

from dropfold.__main__ import main
from dropfold.compress.cost.times import Times, times_of
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.run import measures
from dropfold.compress.run.record import example_of
from dropfold.compress.transform import run as stages
from dropfold.compress.transform.architecture import Architecture
from dropfold.train.engine.run import Run
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
    for word in ("transform", "compress"):
        assert "is transformed already" in refused(word, out, capsys=capsys)
    with pytest.raises(ValueError, match="other operations than its config builds, by `dropfold transform`"):
        Run(replace(whole.config, start=out, out=tmp_path / "more"))


def test_from_new_weights_by_the_policy_to_milliseconds(run, tmp_path, monkeypatch):
    """A latency target is met by what is timed itself, not by the table alone."""
    asked = []

    def table(network, space, example):
        added = {
            name: {o: -0.1 * i for i, o in enumerate(options)} for name, options in space.options.items()
        }
        return {"original": 4.0, "added": added}

    def times(networks, *_):
        asked.append(networks)
        return [Times(p, p, p) for p in (4.0, 3.0 if len(asked) < 3 else 1.0)]

    monkeypatch.setattr(stages, "time_table", table)
    monkeypatch.setattr(stages, "times_of", times)
    out = tmp_path / "small"
    transform(
        run, out, "--target", "latency", "0.7", "--search", "policy", "--weights", "new", "--scores", "12"
    )
    found = load_json(out / "compression.json")
    assert [second for _, second in found["timed"]] == [0.75, 0.25]
    assert "trained anew" in found["scores"]
    assert len(found["probabilities"][0]) == 4
    assert "probabilities" in (out / "report.html").read_text()


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
        patch.setattr(stages, "KEPT_EVERY", 1)
        score, calls = stages.Scores._score, []

        def some(self, operations):
            calls.append(operations)
            if len(calls) == 4:
                raise Interrupted
            return score(self, operations)

        patch.setattr(stages.Scores, "_score", some)
        with pytest.raises(Interrupted):
            transform(run, out, "--sandwich")
        assert len(load_json(out / "compression.json")["architectures"]) == 3
        patch.setattr(stages.Scores, "_score", score)
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
        (("--scores", "1"), "none of the 1 architectures that were scored meets it; give more --scores"),
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
    said = refused("transform", run, "--out", out, *options, capsys=capsys)
    assert "was begun with target ['macs', 0.6], and this asks for ['macs', 0.5]" in said
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
