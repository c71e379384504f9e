"""CPU kernels: numba's threads are torch's, and compiled code is kept until a source changes."""

import shutil
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]


def test_numba_leaves_torch_its_threads(run_python):
    """At numba's start and at each first launch, of one loop and of others."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from dropfold.kernels import knn, lstm_sequence\n"
        "from dropfold.kernels.noise.philox import uniform\n"
        "lstm_sequence(torch.zeros(2, 2, 32), torch.ones(1, 1, 1), torch.zeros(1, 8, 32))\n"
        "assert torch.get_num_threads() == 1\n"
        "uniform(torch.tensor(1), 100), knn(torch.rand(1, 64, 3), 4)\n"
        "assert torch.get_num_threads() == 1\n"
    )
    done = run_python("-c", code, OMP_NUM_THREADS="2", NUMBA_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


def test_small_work_stays_on_the_callers_thread(monkeypatch):
    import numba

    from dropfold.kernels.backend.numba import MIN_SHARED_NANOSECONDS, launch, threads_for

    def loop(x):
        return x

    loop.targetoptions = {"parallel": True}  # as numba's functions have it
    threads = []
    monkeypatch.setattr(numba, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    with threads_for(MIN_SHARED_NANOSECONDS - 1):
        launch(loop, 1)
        with threads_for(2 * MIN_SHARED_NANOSECONDS):  # the work outside is known to be small
            launch(loop, 1)
    with threads_for(MIN_SHARED_NANOSECONDS):
        launch(loop, 1)
    launch(loop, 1)
    assert threads == [1, 1, 2, 2]


def test_kept_code_goes_when_what_it_calls_changes(run_python, tmp_path):
    """`drop_feat` runs a loop of noise/elementwise, which calls noise/draw, which calls noise/philox."""
    kernels = shutil.copytree(
        ROOT / "kernels", tmp_path / "dropfold/kernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "dropfold/__init__.py", tmp_path / "dropfold")
    code = (
        "import torch; from dropfold.kernels import drop_feat\n"
        "print(drop_feat(torch.ones(1, 1, 64), 0.5, seed=torch.tensor(7)).flatten().bool().long().tolist())"
    )

    def dropped():
        done = run_python("-P", "-c", code, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kept():
        return {path: path.stat().st_mtime_ns for path in kernels.rglob("__pycache__/*.nb?")}

    before, compiled = dropped(), kept()
    assert compiled
    assert dropped() == before
    assert kept() == compiled
    file = kernels / "noise/philox/cpu.py"
    source = file.read_text()
    file.write_text(source.replace("for _ in range(10):", "for _ in range(9):"))
    assert source != file.read_text()
    assert dropped() != before
