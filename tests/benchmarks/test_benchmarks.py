"""The benchmark programs run, in small: a rare GPU must not be their first try."""

import csv

import torch

from benchmarks import harness
from benchmarks.harness import Case


def test_the_gpu_programme_runs_in_the_interpreter(run_python, tmp_path):
    done = run_python(
        *("-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--small", "--no-tests"),
        TRITON_INTERPRET="1",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED" not in done.stdout
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    operations = {row["operation"] for row in rows}
    clouds = {"knn", "noise", "edge_conv_fwd_bwd", "linear_norm_max_fwd_bwd"}
    recurrent = {f"{kind}_{way}" for kind in ("lstm", "gru") for way in ("forward", "forward_backward")}
    assert operations == clouds | recurrent | {"kron_linear"}
    assert "published by FlashRNN, not measured here" in done.stdout
    assert "largest distance of the two loss curves: 0.00e+00" in (tmp_path / "log.txt").read_text()


def make_sum():
    x = torch.randn(1 << 20)
    return lambda: x.sum()


def test_measured_rows_are_appended_under_one_header(tmp_path):
    rows = harness.measure([Case("sum", "torch", "N1048576", "float32", make_sum)], repetitions=2)
    for _ in range(2):
        harness.append(rows, tmp_path / "rows.csv")
    (first, second) = csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())
    assert first == second
    assert float(first["p20_ms"]) <= float(first["p50_ms"]) <= float(first["p80_ms"])
    assert 3 < float(first["peak_mib"]) < 100  # 4 MiB of numbers
