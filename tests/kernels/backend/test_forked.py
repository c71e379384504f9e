"""A DataLoader with forked workers, after compiled loops have run in their parent: the workers run them too."""

from tests.conftest import ROOT

SCRIPT = """
import sys

import torch
from torch.utils.data import DataLoader, Dataset

from dropfold.kernels import ball_query, farthest_point_sample, knn


class Samples(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        x = torch.rand(5000 if i % 2 else 300, 3, generator=torch.Generator().manual_seed(i))
        chosen = farthest_point_sample(x, 8)
        return torch.stack([knn(x, 4).sum(), chosen.sum(), ball_query(x, x[chosen], 0.3, 9).idx.sum()])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    samples = Samples()
    own = torch.stack([samples[i] for i in range(6)])
    for _ in range(2):
        loader = DataLoader(samples, 2, num_workers=2, multiprocessing_context="fork", timeout=60)
        assert torch.equal(torch.cat(list(loader)), own)
    assert torch.equal(torch.stack([samples[i] for i in range(6)]), own)  # the parent goes on
    print("equal")
"""


def test_a_loader_with_two_forked_workers(run_python, tmp_path):
    script = tmp_path / "loader.py"
    script.write_text(SCRIPT)
    for threads in ("1", "2"):
        done = run_python(str(script), threads, timeout=300, NUMBA_NUM_THREADS="2", PYTHONPATH=str(ROOT))
        assert done.stdout.strip() == "equal", done.stderr[-2000:]
