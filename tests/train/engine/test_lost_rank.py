"""Two processes that train together on a CPU, and one of them dies: the other says so in a sentence, and how to go on."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from dropfold.train.__main__ import _name_lost_peer


def test_only_an_error_of_the_connection_is_a_lost_peer(monkeypatch):
    gloo = RuntimeError(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2"
    )
    assert _name_lost_peer(gloo) is None  # of one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "another of the 2 processes of this training has ended, and rank 1 cannot" in _name_lost_peer(gloo)
    assert _name_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert _name_lost_peer(ValueError("gloo")) is None


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_is_named_by_the_other(killed, folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = tmp_path / "run"
    shown = "--epochs 5000 --batch-size 8 --points 32 --k 5 --emb-dims 16 --wandb disabled"
    words = ["furniture", "--data", str(folder / "small.h5"), "--out", str(run), *shown.split()]
    launched = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "dropfold.train", *words],
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert ranks[0].stderr
        while (line := ranks[0].stderr.readline()) and "epoch 2/" not in line:
            pass
        ranks[killed].send_signal(signal.SIGKILL)
        said = ranks[1 - killed].communicate(timeout=60)[1]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (
        f"another of the 2 processes of this training has ended, and rank {1 - killed} cannot go on"
        in sentence
    )
    assert f"go on with: torchrun --nproc-per-node 2 -m dropfold.train furniture --resume {run}." in sentence
    assert "Traceback" not in said
    assert said.count("gloo") == 0
    assert ranks[1 - killed].returncode == 1
    assert (run / "checkpoint.pt").exists()
