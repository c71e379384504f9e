"""The benchmark programs run, in small: a rare GPU must not be their first try."""

import csv
from functools import partial

import pytest
import torch

from benchmarks import harness
from benchmarks.cases import scene_operations
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
    noises = {f"drop_{level}_fwd_bwd" for level in ("feat", "point", "cluster")}
    clouds = {"knn", "edge_conv_fwd_bwd", "linear_norm_max_fwd_bwd", "group_mlp_max_fwd_bwd"} | noises
    clouds |= set(scene_operations.OPERATIONS)
    recurrent = {f"{kind}_{way}" for kind in ("lstm", "gru") for way in ("forward", "forward_backward")}
    assert operations == clouds | recurrent | {"kron_linear"}
    assert "published by FlashRNN, not measured here" in done.stdout
    log = (tmp_path / "log.txt").read_text()
    assert "mean distance from the CPU's curve 0.00e+00" in log
    assert log.splitlines()[-1].endswith("all passed")


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


def fail():
    raise MemoryError("too large")


def test_a_broken_case_is_left_out_and_named():
    cases = [Case("sum", name, "N8", "float32", make) for name, make in (("ours", make_sum), ("peer", fail))]
    found = []
    rows = harness.measure(cases, repetitions=1, memory=False, broken=lambda *what: found.append(what))
    assert [row.provider for row in rows] == ["ours"]
    ((case, error),) = found
    assert (case.provider, str(error)) == ("peer", "too large")
    with pytest.raises(MemoryError):
        harness.measure(cases, repetitions=1, memory=False)
    assert harness.measure(cases[1:], broken=lambda *what: None) == []


def test_a_table_is_over_ours(capsys):
    cases = [Case("sum", name, "N8", "float32", partial(make_sum)) for name in ("ours", "peer")]
    rows = harness.measure(cases, repetitions=1, memory=False)
    harness.show(rows)
    shown = capsys.readouterr().out
    assert "sum N8 float32" in shown
    assert f"{rows[1].p50_ms / rows[0].p50_ms:.3g}" in shown
