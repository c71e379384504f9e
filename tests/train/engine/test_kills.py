"""Kills, full disks and neighbours while a run is trained: nothing is lost, nothing foreign goes, the result is the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dropfold.train.config.configs import Signature
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from tests.train.conftest import small

FOREIGN = (".env", ".gitignore", ".model.safetensors.abcd1234.tmp", "notes.txt")
SCRIPT = """
import json, os, resource, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from tests.killing import kill_at_random, start, wait
import accelerate, torchmetrics, numba, dropfold.models  # before the first fork
config = checkpoint.load_config(Path(sys.argv[1]))[0]
out, copies = Path(sys.argv[2]), Path(sys.argv[3])

def train():
    begun = checkpoint.holds_run(out)
    Run(replace(config, resume=out, out=None) if begun else replace(config, out=out)).train()
"""
KILL = """
foreign = {path.name: path.read_text() for path in out.iterdir()}
def restart():
    os.rename(out, copies / str(len(list(copies.iterdir()))))
    os.mkdir(out)
    for name, text in foreign.items():
        (out / name).write_text(text)
kill_at_random(train, int(sys.argv[4]), (0.3, float(sys.argv[5])), restart)
"""
FULL = """
# A limit on the size of files stands for a full disk: the same call fails, in the middle of the same write.
def fill(limit):
    def train_on_full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            train()
        except OSError as error:
            print(json.dumps([error.errno, str(error.filename)]), flush=True)
            return
        print("fitted", flush=True)
    return train_on_full_disk
for limit in map(int, sys.argv[4:]):
    assert wait(start(fill(limit))) == 0
assert wait(start(train)) == 0
"""
NEIGHBOURS = """
def train_and_say():
    try:
        train()
    except ValueError as error:
        print(error, flush=True)
        return
    print("trained", flush=True)
pids = [start(train_and_say) for _ in range(2)]
assert [wait(pid) for pid in pids] == [0, 0]
"""


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small(folder, out=out)).train()
    return out


@pytest.fixture
def disturb(folder, tmp_path, run_python):
    """Train small runs in a folder with foreign files, by a script; returns what it printed."""
    checkpoint_folder, out, copies = (tmp_path / name for name in ("spec", "run", "copies"))
    for one in (checkpoint_folder, out, copies):
        one.mkdir()
    checkpoint.save_config(checkpoint_folder / "config.json", small(folder), Signature([]))
    for name in FOREIGN:
        (out / name).write_text(name)

    def run(script, *arguments, timeout=600):
        done = run_python(
            *("-c", SCRIPT + script, str(checkpoint_folder), str(out), str(copies), *map(str, arguments)),
            timeout=timeout,
            OMP_NUM_THREADS="1",
            NUMBA_NUM_THREADS="1",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    run.out, run.copies = out, copies
    return run


def assert_same_run(run: Path, other: Path, foreign: bool = True) -> None:
    for name in ("model.safetensors", "best.safetensors"):
        a, b = (load_file(folder / name) for folder in (run, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[key]) for key, value in a.items())
    a, b = (
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    )
    assert a == b
    expected = {*checkpoint.FILES, *(FOREIGN if foreign else ())}
    assert {path.name for path in run.iterdir()} == expected
    for name in FOREIGN if foreign else ():
        assert (run / name).read_text() == name


@pytest.mark.parametrize(
    ("kills", "longest"), [(2, 2.0), pytest.param(20, 6.0, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_kills_at_random_moments_change_nothing(kills, longest, disturb, finished):
    disturb(KILL, kills, longest, timeout=1200)
    for run in (disturb.out, *disturb.copies.iterdir()):
        assert_same_run(run, finished)


@pytest.mark.slow
def test_a_full_disk_names_the_file_and_the_run_goes_on(disturb, finished):
    """A limit below each file in turn: config, metrics, checkpoint, weights, report."""
    sizes = sorted((finished / name).stat().st_size for name in checkpoint.FILES)
    limits = [100, *(size - 1 for size in sizes[::3])]
    said = disturb(FULL, *limits).stdout.splitlines()
    assert len(said) == len(limits)
    for line in said:
        number, file = json.loads(line)
        assert number == 27  # EFBIG
        assert Path(file).name in checkpoint.FILES
    assert_same_run(disturb.out, finished)


@pytest.mark.slow
def test_two_processes_at_once(disturb, finished):
    said = disturb(NEIGHBOURS).stdout.splitlines()
    assert sorted(line == "trained" for line in said) == [False, True]
    assert any("is being trained in by process" in line or "holds a run already" in line for line in said)
    assert_same_run(disturb.out, finished)


def test_the_oracle_tells_runs_apart(finished, tmp_path):
    """The comparison above fails where one weight differs by one bit."""
    shutil.copytree(finished, tmp_path / "run")
    weights = load_file(finished / "model.safetensors")
    name = next(key for key, value in weights.items() if value.is_floating_point())
    weights[name].view(torch.int32).view(-1)[0] ^= 1
    checkpoint.save_weights(tmp_path / "run/model.safetensors", weights)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", finished, foreign=False)
