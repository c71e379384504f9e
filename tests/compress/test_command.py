"""`dropfold compress` from a run to a smaller run, interrupted anywhere, and what it refuses."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dropfold.__main__ import main
from dropfold.compress import Choice, Plan
from dropfold.compress.cost.times import times_of
from dropfold.compress.run import channels as stages
from dropfold.compress.run import measures, target, training
from dropfold.compress.run.target import say_what_stays
from dropfold.train.config.ranges import check_options
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    clips,
    folder,
    furniture,
    small,
    small_video,
    video_folder,
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


def compress(run, out, *more):
    method = [] if "--method" in more else ["--method", "norm"]
    main(["compress", str(run), "--epochs", "2", "--out", str(out), *method, *more])


def test_a_smaller_run_out_of_a_run(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "small"
    compress(run, out)
    shown = capsys.readouterr().out
    assert "BatchNorm adapted" in shown
    found = load_json(out / "compression.json")
    before, after = found["cost"]["M multiply-adds"]
    assert 0.3 * before < after <= 0.5 * before
    trained, whole = Trained.of(out), Trained.of(run)
    assert trained.config.sizes["edge4.linear"] == [
        len(found["channels"]["edge4"]),
        2 * len(found["channels"]["edge3"]),
    ]
    assert found["cost"]["parameters"][1] == sum(p.numel() for p in trained.network.parameters())
    assert list(found["scores"]) == ["original", "channels taken out", "BatchNorm adapted", "fine-tuned"]
    assert (
        found["scores"]["original"]["overall_accuracy"]
        == checkpoint.load_summary(run)["test/overall_accuracy"]
    )
    assert (
        found["scores"]["fine-tuned"]["overall_accuracy"]
        == checkpoint.load_summary(out)["test/overall_accuracy"]
    )
    assert whole.network.edge4.linear.out_features == 256
    main(["evaluate", str(out)])
    assert "overall accuracy" in capsys.readouterr().out
    weights = (out / "model.safetensors").read_bytes()
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()  # as if it was killed before that
    for module, name in ((stages, "plan_of"), (stages, "apply"), (training, "Run")):
        monkeypatch.setattr(module, name, None)
    capsys.readouterr()
    compress(run, out)  # again: nothing else is left to do
    said = capsys.readouterr()
    assert "is finished: only its page is written again" in said.err
    assert "BatchNorm adapted" in said.out
    assert (out / "model.safetensors").read_bytes() == weights
    assert (out / "report.html").read_text() == page


def test_channels_and_ranks_by_their_loss_of_information(run, tmp_path, capsys, monkeypatch):
    """The default method, with explanations and scores of the new run."""
    monkeypatch.setattr(stages, "paths_of", partial(stages.paths_of, step=0.1))
    out = tmp_path / "small"
    main(["compress", str(run), "--epochs", "1", "--out", str(out), "--target", "macs", "0.3"])
    assert "cc macs 0.3" in capsys.readouterr().out
    found = load_json(out / "compression.json")
    before, after = found["cost"]["M multiply-adds"]
    assert after <= 0.3 * before
    assert found["channels"]
    for name, rank in found["ranks"].items():
        assert Trained.of(out).config.sizes[name][2] == rank
    choice = Choice.load(out / "choice.json")
    assert (choice.channels, choice.ranks) == (found["channels"], found["ranks"])
    assert choice.sizes == Trained.of(out).config.sizes
    main(["evaluate", str(out)])
    assert "overall accuracy" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    for words in (
        "Layer by layer",
        "rank correlation of",
        f"dropfold compress {run} --method cc --target macs 0.3",
    ):
        assert words in page
    assert -1 <= found["explanations"]["rank correlation"] <= 1
    assert found["layers"]["sizes"]["fc3"][0][1] == 256


def test_an_interrupted_compression_goes_on_to_the_same(run, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole", tmp_path / "cut"
    compress(run, whole, "--method", "random", "--seed", "3")

    def stop(*_, **__):
        raise Interrupted

    for module, name in (
        (stages, "_scores_before"),  # after the choice
        (training, "Run"),  # before the first step
        (measures, "costs"),  # after the last one
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(Interrupted):
                compress(run, out, "--method", "random", "--seed", "3")
    compress(run, out, "--method", "random", "--seed", "3")
    assert "goes on from what was done before" in capsys.readouterr().err
    for name in ("model.safetensors", "predictions.npz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = load_json(whole / "compression.json"), load_json(out / "compression.json")
    assert {key: first[key] for key in ("channels", "scores")} == {
        key: second[key] for key in ("channels", "scores")
    }


def test_a_choice_by_time_that_is_interrupted_goes_on_with_the_times_that_are_kept(
    run, tmp_path, monkeypatch
):
    """A millisecond a parameter; what is measured a second time comes out otherwise."""
    measured = set()

    def milliseconds(what, modules):
        power = 0.1 if what in measured else 1.0
        measured.add(what)
        return [sum(p.numel() for p in module.parameters()) ** power for module in modules]

    def layer_times(network, *_):
        layers = {name: layer for name, layer in network.named_children() if list(layer.parameters())}
        return dict(zip(layers, milliseconds("layers", layers.values()), strict=True))

    def times_of(networks, *_, **__):
        return [SimpleNamespace(p50=ms) for ms in milliseconds(len(networks), networks)]

    def stop(*_, **__):
        raise Interrupted

    def stop_beside_the_original(networks, *_, **__):
        return stop() if len(networks) == 2 else times_of(networks)

    monkeypatch.setattr(stages, "paths_of", partial(stages.paths_of, step=0.25))
    monkeypatch.setattr(stages, "apply", stop)  # after the choice
    monkeypatch.setattr(target, "layer_times", layer_times)
    monkeypatch.setattr(target, "times_of", times_of)
    found = []
    for name, module, called, broken in (
        ("whole", stages, "apply", stop),
        ("cut", stages, "paths_of", stop),
        ("cut", target, "times_of", stop_beside_the_original),
        ("cut", stages, "apply", stop),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, called, broken)
            with pytest.raises(Interrupted):
                main(["compress", str(run), "--target", "latency", "0.6", "--out", str(tmp_path / name)])
        found.append(load_json(tmp_path / name / "compression.json"))
        if name == "whole":
            measured.clear()
    whole, first, second, end = found
    assert list(first["times"]) == ["original", "layers"]
    assert list(second["times"]) == ["original", "layers", "choices"]
    assert "channels" not in second
    assert whole == end


@pytest.mark.parametrize(("part", "layers"), [(0.9, None), (0.5, "0.11"), (0.3, "0.00")])
def test_a_target_near_the_time_that_stays_is_said(part, layers, monkeypatch):
    """4.5 of 8 milliseconds are the layers'."""
    monkeypatch.setattr(target, "layer_times", lambda *_: {"0": 3.5, "2": 1.0})
    monkeypatch.setattr(target, "times_of", lambda *_, **__: [SimpleNamespace(p50=8.0)])
    said = []
    monkeypatch.setattr(target, "say", said.append)
    say_what_stays(Plan(torch.nn.Identity(), ()), part, ())
    (text,) = said
    assert text.startswith(f"--target latency {part:g}: 0.44 of the original's 8.00 ms are outside")
    assert ("ask for a larger part" in text) == (layers is not None)
    assert layers is None or f"leaves the layers {layers} of their time" in text


def test_fine_tuning_that_is_interrupted_goes_on_from_its_checkpoint(run, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "cut"
    compress(run, whole)
    with monkeypatch.context() as patch:
        patch.setattr(training, "Run", lambda config, _, **weights: Run(config, [Interrupt(1)], **weights))
        with pytest.raises(Interrupted):
            compress(run, out)
    monkeypatch.setattr(
        training,
        "Run",
        lambda config, _, **weights: Run(config, [Interrupt(None)] * bool(config.resume), **weights),
    )
    compress(run, out)
    assert torch.equal(
        *(checkpoint.load_weights(f / "model.safetensors")["edge1.linear.weight"] for f in (whole, out))
    )


def refused(*words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compress", *map(str, words)])
    assert ended.value.code == 1 or isinstance(ended.value.code, str)
    return capsys.readouterr().err + str(ended.value.code)


def test_what_cannot_be_compressed_is_said(run, video_folder, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "small"
    compress(run, out)
    capsys.readouterr()
    assert "is compressed already" in refused(out, capsys=capsys)
    assert "was begun with epochs 2, and this asks for 3" in refused(
        run, "--method", "norm", "--epochs", "3", "--out", out, capsys=capsys
    )
    for part in ("0", "1", "-2", "nan"):
        assert "above 0 and below 1" in refused(run, "--target", "macs", part, capsys=capsys)
    assert "out of reach: the least" in refused(
        run, "--method", "norm", "--target", "macs", "1e-9", "--out", tmp_path / "a", capsys=capsys
    )
    assert not (tmp_path / "a").exists()
    assert "is not there" in refused(tmp_path / "nothing", capsys=capsys)
    assert "--rho is ADMM's penalty; --method norm has none" in refused(
        run, "--method", "norm", "--rho", "2", capsys=capsys
    )
    for text in ('{"mine": 1}', "[1, 2]"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "compression.json").write_text(text)
        assert "compression.json" in refused(
            run, "--method", "norm", "--out", tmp_path / "own", capsys=capsys
        )
        assert (tmp_path / "own" / "compression.json").read_text() == text
    Run(small_video(video_folder, out=tmp_path / "video", epochs=1)).train()
    assert "no channels can be taken out of" in refused(tmp_path / "video", "--method", "norm", capsys=capsys)


def test_a_run_may_be_the_working_folder(run, tmp_path, monkeypatch, capsys):
    import shutil

    own = tmp_path / "own"
    shutil.copytree(run, own)
    monkeypatch.chdir(own)
    main(["compress", ".", "--method", "norm", "--epochs", "1"])
    out = tmp_path / "own-norm-macs-0.5"
    assert (out / "model.safetensors").exists()
    assert f"--out {out}" in (out / "report.html").read_text()


def test_several_processes_are_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "compress runs in one process, and these are 2" in refused(
        run, "--out", tmp_path / "a", capsys=capsys
    )
    assert not (tmp_path / "a").exists()


def test_sizes_that_do_not_fit_are_refused(folder):  # noqa: F811
    with pytest.raises(ValueError, match=r"sizes has 'edge9'"):
        Run(replace(small(folder), sizes={"edge9": [3, 4]}))
    for wrong in ([1], {"a": 1}, {"a": ["b"]}, {1: [2]}):
        with pytest.raises(ValueError, match="sizes"):
            check_options(replace(small(folder), sizes=wrong))
