"""The weights of the best epoch are those that the checkpoint knows: another run's are seen before a run ends with them."""

import re
import shutil
from dataclasses import replace

import pytest

from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import DamagedError
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small
from tests.train.engine.test_integrity import Interrupt, Interrupted

FOREIGN = r"best\.safetensors is whole, and not the file that this run wrote .*checkpoint\.pt.*another run's.*or delete it"


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    """Weights of the best epoch of another run of the same network."""
    out = tmp_path_factory.mktemp("runs") / "other"
    Run(small(folder, out=out, epochs=1, validate_every=1, seed=1), [Interrupt(None)]).train()
    return out / "best.safetensors"


def interrupted(out, folder, best, **options):
    """A run of which two epochs are in the checkpoint; no later epoch has a score above `best`, or each has."""
    with pytest.raises(Interrupted):
        Run(small(folder, out=out, **options), [Interrupt(2)]).train()
    state = checkpoint.load_state(out / "checkpoint.pt")
    assert state["best_epoch"] in (0, 1)
    checkpoint.save_state(out / "checkpoint.pt", state | {"best": best})


def resume(out):
    config, _ = checkpoint.load_config(out)
    return Run(replace(config, resume=out), [Interrupt(None)])


def test_best_weights_of_another_run_are_refused_at_once(folder, other, tmp_path):
    out = tmp_path / "run"
    interrupted(out, folder, best=2.0, epochs=4, validate_every=2)
    own = shutil.copy(out / "best.safetensors", tmp_path)
    shutil.copy(other, out)
    with pytest.raises(DamagedError, match=FOREIGN):
        resume(out)
    shutil.copy(own, out)
    assert resume(out).train()["test_at_best_validation/epoch"] == 2


def test_best_weights_of_another_run_are_refused_after_the_epoch_that_a_kill_may_have_cost(
    folder, other, tmp_path
):
    """Until then they may be that epoch's own."""
    out = tmp_path / "run"
    interrupted(out, folder, best=2.0, validate_every=1)
    shutil.copy(other, out)
    with pytest.raises(DamagedError, match=FOREIGN):
        resume(out).train()
    assert not (out / "summary.json").exists()
    (out / "best.safetensors").unlink()
    assert "test_at_best_validation/epoch" not in resume(out).train()


def test_best_weights_that_are_laid_in_while_a_run_trains_are_seen(folder, other, tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupted(out, folder, best=2.0, epochs=4, validate_every=2)
    monkeypatch.setattr(Interrupt, "before_epoch", lambda *_: shutil.copy(other, out))
    with pytest.raises(DamagedError, match=FOREIGN):
        resume(out).train()


def test_a_kill_between_the_best_weights_and_the_checkpoint_costs_nothing(folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "run", tmp_path / "whole"
    interrupted(out, folder, best=-1.0, validate_every=1)
    shutil.copytree(out, whole)
    resume(whole).train()

    def killed(*_):
        raise Interrupted

    before = (out / "best.safetensors").read_bytes()
    going = resume(out)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", killed)
        with pytest.raises(Interrupted):
            going.train()
    assert (out / "best.safetensors").read_bytes() != before
    resume(out).train()
    assert (out / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


def test_best_weights_of_another_run_are_noted_before_the_summary_is_there(folder, other, tmp_path, capsys):
    out = tmp_path / "run"
    Run(small(folder, out=out, epochs=2, validate_every=1), [Interrupt(None)]).train()
    (out / "summary.json").unlink()
    capsys.readouterr()
    Trained.of(out)
    assert capsys.readouterr().err == ""
    shutil.copy(other, out)
    Trained.of(out)
    assert re.search(FOREIGN, capsys.readouterr().err)
