"""Kills of `dropfold compress` and `dropfold transform` at random moments: the same command goes on to the same result."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dropfold.train.engine.run import Run
from tests.train.conftest import folder, furniture, small  # noqa: F401

SCRIPT = """
import json, os, sys
from pathlib import Path
from dropfold.__main__ import main
from dropfold.compress.cost.times import times_of
from dropfold.compress.run import measures
from tests.killing import kill_at_random
import accelerate, torchmetrics, numba, dropfold.models, dropfold.compress.transform.run, dropfold.compress.run.channels
measures.times_of = lambda *given, **_: times_of(*given, seconds=0)  # times are not what is tested
out, copies, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[5:]

def work():
    main([*words, "--out", str(out)])

def restart():
    os.rename(out, copies / str(len(list(copies.iterdir()))))
kill_at_random(work, int(sys.argv[3]), (0.3, float(sys.argv[4])), restart)
"""
COMMANDS = {
    "compress": ("compress", "--method", "cc", "--epochs", "2"),
    "transform": (
        *("transform", "--target", "macs", "0.6", "--scores", "6", "--epochs", "1", "--supernet-epochs", "2"),
    ),
}


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small(folder, out=out, epochs=2)).train()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_kills_at_random_moments_change_nothing(command, run, tmp_path, run_python):
    word, *more = COMMANDS[command]

    def killed(name, kills):
        copies = tmp_path / f"{name} copies"
        copies.mkdir()
        out = tmp_path / name
        done = run_python(
            *("-c", SCRIPT, str(out), str(copies), str(kills), "8", word, str(run), *more),
            timeout=1800, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [out, *copies.iterdir()]

    (whole,) = killed("whole", 0)
    for other in killed("killed", 12):
        weights, expected = (load_file(place / "model.safetensors") for place in (other, whole))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in weights.items())
        found, right = (json.loads((place / "compression.json").read_text()) for place in (other, whole))
        for of in ("scores", "rewards", "operations", "channels", "architectures"):
            assert found.get(of) == right.get(of)
        assert {path.name for path in other.iterdir()} == {path.name for path in whole.iterdir()}
