"""The files of a run belong together: who changes, loses or shares them is told what to do; the rest is made anew."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dropfold.data_scripts.work.processes import LOCK, FolderLock
from dropfold.train.compare import compare
from dropfold.train.config.configs import Signature
from dropfold.train.engine.method import Method
from dropfold.train.engine.run import Run
from dropfold.train.predict import convert, evaluate, predict
from dropfold.train.storage import checkpoint, sealed
from dropfold.train.storage.sealed import DamagedError
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small

ROOT = Path(__file__).parents[3]
FOREIGN = (".env", ".gitignore", ".bashrc", ".checkpoint.pt.abcd1234.tmp", "notes.txt", ".config.json.tmp")


class Interrupted(BaseException):
    """Ends a run as a kill does."""


class Interrupt(Method):
    def __init__(self, epoch):
        self.epoch = epoch

    def before_epoch(self, network, epoch):
        if epoch == self.epoch:
            raise Interrupted


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small(folder, out=out), [Interrupt(None)]).train()
    return out


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    """A run of the same network with another seed."""
    out = tmp_path_factory.mktemp("runs") / "other"
    Run(small(folder, out=out, seed=1), [Interrupt(None)]).train()
    return out


@pytest.fixture(scope="module")
def halved(folder, tmp_path_factory):
    """A run that was interrupted in its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "half"
    with pytest.raises(Interrupted):
        Run(small(folder, out=out), [Interrupt(1)]).train()
    return out


@pytest.fixture
def half(halved, tmp_path):
    return Path(shutil.copytree(halved, tmp_path / "half"))


@pytest.fixture
def whole(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "whole"))


def resume(run, folder, **options):
    return Run(replace(small(folder), resume=run, **options), [Interrupt(None)])


def assert_same_weights(run, other):
    a, b = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 4
    path.write_bytes(content)


def edit(path, **changes):
    """As a text editor does."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_foreign_files_stay(folder, finished, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in FOREIGN:
        (out / name).write_text(name)
    (out / ".cache").mkdir()
    with pytest.raises(Interrupted):
        Run(small(folder, out=out), [Interrupt(1)]).train()
    resume(out, folder).train()
    assert all((out / name).read_text() == name for name in FOREIGN)
    assert {path.name for path in out.iterdir()} == {*FOREIGN, ".cache", *checkpoint.FILES}
    assert_same_weights(out, finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 33}, "k must be at most the 32 points of a sample; got 33"),
        ({"batch_size": 1}, "batch_size must be at least 2: BatchNorm needs more than one shape"),
    ],
)
def test_options_that_fail_in_the_first_step_are_refused_before(options, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        Run(small(folder, out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_a_run(folder, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file, and a run is a folder"):
        Run(small(folder, out=tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_no_folder_for_a_run(folder, tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="run is a link that leads nowhere, and a run is a folder"):
        Run(small(folder, out=tmp_path / "run"))


@pytest.mark.parametrize("name", [n for n in checkpoint.FILES if n != "report.html"])
def test_a_folder_that_holds_a_file_of_a_run_is_not_written_to(name, folder, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="holds a run already"):
        Run(small(folder, out=tmp_path))
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    "change", [{"lr": 0.5}, {"seed": 1}, {"epochs": 30}, {"noise": {"p": 0.9}}, {"class_names": ["x"]}]
)
def test_an_edited_config_is_refused_and_restored_on_request(change, half, folder, finished):
    name, value = next(iter(change.items()))
    edit(half / "config.json", **change)
    message = (
        rf"was changed after the run wrote it.*: {name} {re.escape(str(value))} \(the run: .*"
        "train anew: dropfold train furniture"
    )
    for act in (lambda: resume(half, folder), lambda: checkpoint.load_config(half), lambda: Trained.of(half)):
        with pytest.raises(DamagedError, match=message):
            act()
    (half / "config.json").unlink()
    resume(half, folder).train()
    assert_same_weights(half, finished)


def test_an_edited_config_whose_checksum_was_taken_out_is_refused(half, folder):
    values = json.loads((half / "config.json").read_text())
    del values["sha256"]
    (half / "config.json").write_text(json.dumps(values | {"lr": 0.5}))
    with pytest.raises(DamagedError, match=r"lr 0.5 \(the run: 0.001\)"):
        resume(half, folder)


@pytest.mark.parametrize(
    "act", [lambda path: path.unlink(), lambda path: os.truncate(path, 100)], ids=["lost", "cut"]
)
def test_a_lost_config_is_restored_from_the_checkpoint(act, half, folder, finished, capsys):
    act(half / "config.json")
    resume(half, folder).train()
    assert "the config is the one in checkpoint.pt" in capsys.readouterr().err
    assert_same_weights(half, finished)
    assert checkpoint.load_config(half)[0] == replace(
        checkpoint.load_config(finished)[0], out=checkpoint.load_config(half)[0].out
    )


def test_a_config_that_cannot_be_restored_says_so(half, folder):
    (half / "checkpoint.pt").unlink()
    os.truncate(half / "config.json", 100)
    with pytest.raises(
        DamagedError, match=r"config\.json is damaged.*Put a copy of the file back, or train anew"
    ):
        resume(half, folder)


def test_a_damaged_checkpoint_is_refused_and_training_can_begin_anew(half, folder, finished):
    flip(half / "checkpoint.pt")
    with pytest.raises(
        DamagedError,
        match=r"checkpoint\.pt is damaged.*delete it, and --resume .* trains anew from the first",
    ):
        resume(half, folder)
    (half / "checkpoint.pt").unlink()
    resume(half, folder).train()
    assert_same_weights(half, finished)


def test_a_damaged_checkpoint_of_an_ended_run_is_not_said_to_begin_anew(finished, folder, tmp_path):
    """For --resume refuses to."""
    run = shutil.copytree(finished, tmp_path / "ended")
    flip(run / "checkpoint.pt")
    with pytest.raises(DamagedError, match=r"has ended: .* train it again, with another --out\.$"):
        resume(run, folder)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(FileNotFoundError, match="to train it again, give another --out"):
        resume(run, folder)


def test_a_checkpoint_of_another_network_says_which_version_made_it(half, folder):
    state = checkpoint.load_state(half / "checkpoint.pt")
    name = next(iter(state["model"]))
    state["model"]["new.name"] = state["model"].pop(name)
    checkpoint.save_state(half / "checkpoint.pt", state)
    with pytest.raises(
        ValueError,
        match=r"does not fit the network.*Go on with the version that it was trained with .*or train",
    ):
        resume(half, folder)
    del state["model"]
    checkpoint.save_state(half / "checkpoint.pt", state)
    with pytest.raises(ValueError, match="does not fit the network"):
        resume(half, folder)


def test_data_that_are_gone_or_changed_are_named(folder, furniture, tmp_path):
    data = tmp_path / "small.h5"
    shutil.copy(folder / "small.h5", data)
    config = small(folder, out=tmp_path / "run", data=data)
    with pytest.raises(Interrupted):
        Run(config, [Interrupt(1)]).train()
    data.unlink()
    with pytest.raises(
        ValueError,
        match=r"is trained on .*small\.h5 \(checksum .*\): put that file back in its place, or train anew",
    ):
        resume(tmp_path / "run", folder, data=data)


def test_lost_metrics_are_written_anew(half, folder, finished, capsys):
    for act in (lambda path: path.unlink(), lambda path: path.write_text('{"epoch": 0, "lr": 9}\n')):
        before = (half / "metrics.jsonl").read_bytes()
        act(half / "metrics.jsonl")
        with pytest.raises(Interrupted):
            Run(replace(small(folder), resume=half), [Interrupt(1)]).train()
        assert (half / "metrics.jsonl").read_bytes() == before
    assert "metrics.jsonl was cut or changed; it is written anew" in capsys.readouterr().err


READ = {
    "model.safetensors": lambda run: Trained.of(run).network,
    "predictions.npz": lambda run: Trained.of(run).predictions,
    "summary.json": checkpoint.load_summary,
    "metrics.jsonl": checkpoint.load_metrics,
}


@pytest.mark.parametrize(
    "damage", [Path.unlink, flip, lambda path: os.truncate(path, 50)], ids=["lost", "flipped", "cut"]
)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "predictions.npz", "summary.json", "metrics.jsonl", "report.html"]
)
def test_what_follows_from_the_checkpoint_is_made_anew(damage, name, whole, folder, finished):
    damage(whole / name)
    if name in READ:
        with pytest.raises((DamagedError, FileNotFoundError), match=rf"{name} .*--resume"):
            READ[name](whole)
    assert (
        resume(whole, folder).train()["test/overall_accuracy"]
        == checkpoint.load_summary(finished)["test/overall_accuracy"]
    )
    assert_same_weights(whole, finished)
    assert (whole / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    a, b = (checkpoint.load_arrays(run / "predictions.npz") for run in (whole, finished))
    assert (a["logits"] == b["logits"]).all()
    assert "{{" not in (whole / "report.html").read_text()


def test_a_finished_run_without_checkpoint_is_not_trained_over(whole, folder):
    (whole / "checkpoint.pt").unlink()
    before = (whole / "model.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"has ended, and its checkpoint\.pt is not there"):
        resume(whole, folder)
    assert (whole / "model.safetensors").read_bytes() == before
    assert Trained.of(whole).network


class Spoil(Method):
    """Makes a weight, a buffer, or a moment of the optimizer infinite after the second epoch."""

    def __init__(self, what):
        self.what = what

    def after_epoch(self, network, epoch):
        if epoch == 1:
            values = dict([*network.named_parameters(), *network.named_buffers()])
            values[self.what].data.view(-1)[0] = float("nan" if "weight" in self.what else "inf")
        return {}


@pytest.mark.parametrize("what", ["edge1.weight", "edge1.bn.running_var"])
def test_weights_that_are_not_finite_are_never_saved(what, folder, tmp_path):
    out = tmp_path / "run"
    names = [name for name, _ in Run(small(folder, out=out)).network.state_dict().items()]
    what = next(name for name in names if name.endswith("weight" if "weight" in what else "running_var"))
    with pytest.raises(
        FloatingPointError, match=rf"{what} is not finite after epoch 2.*epoch 1 is in .*lower --lr"
    ):
        Run(small(folder, out=out, validate_every=1), [Spoil(what)]).train()
    state = checkpoint.load_state(out / "checkpoint.pt")
    assert state["epoch"] == 1
    assert checkpoint.find_not_finite(state) is None
    assert checkpoint.find_not_finite(checkpoint.load_weights(out / "best.safetensors")) is None
    assert not (out / "model.safetensors").exists()


def test_one_process_trains_in_a_folder(half, folder, finished):
    lock = FolderLock(half)
    lock.take("trained in")
    before = {path.name: path.read_bytes() for path in half.iterdir()}
    code = (
        "import sys\nfrom dropfold.__main__ import main\n"
        "main(['train', 'furniture', '--resume', sys.argv[1], '--data', sys.argv[2]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(half), str(folder / "small.h5")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(
        rf"is being trained in by process {os.getpid()} on \S+ since 20\d\d-.*; wait until it has ended",
        done.stderr,
    )
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in half.iterdir()} == before
    lock.release()
    resume(half, folder).train()
    assert_same_weights(half, finished)
    assert not (half / LOCK).exists()


def test_two_processes_with_one_new_folder(folder, tmp_path):
    """Both see an empty folder; the second finds the lock, and later the run."""
    first, second = (Run(small(folder, out=tmp_path / "run", epochs=1)) for _ in range(2))
    lock = FolderLock(tmp_path / "run")
    (tmp_path / "run").mkdir()
    lock.take("trained in")
    with pytest.raises(ValueError, match="is being trained in by process"):
        second.train()
    lock.release()
    first.train()
    with pytest.raises(FileExistsError, match="holds a run already"):
        second.train()


def test_a_run_that_went_on_meanwhile_is_not_trained_over(half, folder):
    first, second = resume(half, folder), resume(half, folder)
    first.train()
    with pytest.raises(
        ValueError, match="was trained by another process meanwhile; give the same command again"
    ):
        second.train()


def test_a_killed_process_frees_its_folder(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dropfold.data_scripts.work.processes import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).take('trained in')\nprint('taken', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "taken\n"
    with pytest.raises(ValueError, match=f"by process {process.pid} on"):
        FolderLock(tmp_path).take("trained in")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    lock = FolderLock(tmp_path)
    lock.take("trained in")
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_on_the_drive_the_living_process_holds_the_folder(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = FolderLock(tmp_path)
    first.take("trained in")
    with pytest.raises(ValueError, match=f"by process {os.getpid()} on .*delete"):
        FolderLock(tmp_path).take("trained in")
    text = json.loads((tmp_path / LOCK).read_text())
    dead = (
        text["process"].rpartition("-")[0] + "-1"
    )  # the same number, another start: it was given away again
    (tmp_path / LOCK).write_text(json.dumps(text | {"process": dead}))
    FolderLock(tmp_path).take("trained in")
    elsewhere = "0" * 8 + text["process"][8:]
    (tmp_path / LOCK).write_text(json.dumps(text | {"process": elsewhere}))
    with pytest.raises(ValueError, match="is being"):
        FolderLock(tmp_path).take("trained in")


@pytest.mark.parametrize("writes", [1, 9])
def test_a_full_disk_ends_in_a_sentence_with_the_command_that_goes_on(writes, folder, tmp_path, monkeypatch):
    from dropfold.train.__main__ import main

    fsync, done = os.fsync, []

    def fail(handle):
        done.append(handle)
        if len(done) == 2 * writes + 1:  # each write is synchronised, and its folder
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    out = tmp_path / "run"
    shown = "--epochs 3 --batch-size 8 --points 32 --k 5 --emb-dims 16 --wandb disabled"
    words = ["furniture", "--data", str(folder / "small.h5"), "--out", str(out), *shown.split()]
    with pytest.raises(SystemExit) as ended:
        main(words)
    files = "|".join(checkpoint.FILES)
    assert re.fullmatch(
        rf"error: {out}/({files}): No space left on device; once that is mended, go on with: dropfold train furniture "
        rf"--resume {out}\.",
        str(ended.value),
    )
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_checksum_costs_little():
    """Of 40 MB, less than the slowest processors that have no instructions for SHA-256 take (100 MB/s)."""
    content = torch.rand(10_000_000).numpy().tobytes() + bytes(22)
    start = time.perf_counter()
    sealed.seal_archive(content)
    assert time.perf_counter() - start < 1.0


def test_a_signature_with_no_class_is_a_spec(folder, tmp_path):
    checkpoint.save_config(tmp_path / "config.json", small(folder), Signature([]))
    assert checkpoint.load_config(tmp_path)[1].class_names == []


# --- every file, every command ------------------------------------------------------------------------------------


COMMANDS = ("--resume", "evaluate", "predict", "--start", "compare", "convert")


def run_command(command, run, folder, out):
    """In this process, as the command line does."""
    if command == "--resume":
        resume(run, folder).train()
    elif command == "evaluate":
        evaluate.main(evaluate.Options(run))
    elif command == "predict":
        predict.main(predict.Options(run, (out / "chair.npy",)))
    elif command == "--start":
        Run(small(folder, out=out / "next", start=run))
    elif command == "compare":
        config = checkpoint.load_config(run)[0]
        found = compare.run_one(replace(config, out=run))
        if isinstance(found, str):
            raise ValueError(found)
    else:
        convert.main(convert.Options(run / "best.safetensors", out / "converted.safetensors"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_changed_file_is_never_passed_over(command, whole, other, folder, tmp_path, capfd):
    """One bit, or the same file of another run: each command names the file, in an error or in a note, or heals it."""
    names = [name for name in checkpoint.FILES if name != checkpoint.REPORT]
    swapped = names if command in ("evaluate", "--resume") else []
    for i, (name, swap) in enumerate(
        [*((name, False) for name in names), *((name, True) for name in swapped)]
    ):
        run, out = Path(shutil.copytree(whole, tmp_path / f"run{i}")), tmp_path / f"out{i}"
        out.mkdir()
        np.save(out / "chair.npy", np.random.default_rng(0).normal(size=(64, 3)))
        if swap:
            assert (other / name).read_bytes() != (run / name).read_bytes()
            shutil.copy(other / name, run / name)
        else:
            flip(run / name)
        capfd.readouterr()
        try:
            run_command(command, run, folder, out)
            said = capfd.readouterr().err
        except (ValueError, OSError, SystemExit) as error:
            said = str(error) + capfd.readouterr().err
        # To convert reads the one file that it is given.
        assert name in said or (command == "convert" and name != "best.safetensors"), (name, swap, said)


@pytest.mark.parametrize("best_epoch", [1, 2])
def test_weights_of_the_best_epoch_are_made_anew_or_missed(best_epoch, whole, folder):
    """They are the last epoch's, which the checkpoint holds, or nobody's."""
    state = checkpoint.load_state(whole / "checkpoint.pt")
    before = (whole / "best.safetensors").read_bytes()
    last = state["best_epoch"] == 2
    flip(whole / "best.safetensors")
    state["best_epoch"] = best_epoch
    checkpoint.save_state(whole / "checkpoint.pt", state)
    if best_epoch == 2:
        resume(whole, folder).train()
        assert not last or (whole / "best.safetensors").read_bytes() == before
        assert checkpoint.load_weights(whole / "best.safetensors")
        return
    with pytest.raises(DamagedError, match=r"best\.safetensors is damaged.*or delete it: the run has ended"):
        resume(whole, folder)
    (whole / "best.safetensors").unlink()
    assert resume(whole, folder).train()["epochs"] == 3


def test_no_memory_is_taken_for_what_an_array_states_alone(tmp_path):
    """An archive without a checksum, whose header was changed."""
    path = tmp_path / "predictions.npz"
    with zipfile.ZipFile(path, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (9, 2**32)}
        )
        archive.writestr("logits.npy", header.getvalue() + bytes(144))
    with pytest.raises(DamagedError, match=r"logits\.npy states \[9, 4294967296\] numbers, and holds fewer"):
        checkpoint.load_arrays(path)
