"""The benchmark programs run, in small: a rare GPU must not be their first try."""

import csv
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, harness
from benchmarks.cases import gpu_clouds, scene_operations, small_rnn
from benchmarks.cases.gpu_clouds import Comparison
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
    of_small_sizes = {row["provider"] for row in rows if row["shape"] == str(small_rnn.TINY[0])}
    assert of_small_sizes == {"nn.LSTM", "nn.GRU", *(f"dropfold {form}" for form in small_rnn.FORMS)}
    assert "published by FlashRNN, not measured here" in done.stdout
    log = (tmp_path / "log.txt").read_text()
    assert "mean distance from the CPU's curve 0.00e+00" in log
    assert log.splitlines()[-1].endswith("all passed")


def test_the_groups_of_the_gpu_programme_fit_into_its_time(tmp_path):
    """Each has its minutes, and the last start leaves room for what it started."""
    assert sum(gpu.MINUTES.values()) + gpu.MINUTES_LEFT == 9
    run = gpu.Run(gpu.Options(tmp_path))
    assert list(run.groups()) == list(gpu.MINUTES)
    without = gpu.Run(gpu.Options(tmp_path, device="cpu", small=True, tests=False))
    assert set(gpu.MINUTES) - set(without.groups()) == {"tests", "compiled"}


def test_what_a_group_has_no_time_for_is_named(tmp_path, capsys):
    """It is not even built, and the run goes on."""
    run = gpu.Run(gpu.Options(tmp_path, device="cpu"), start=time.monotonic() - 120)
    run.measure([Comparison("a sum", fail), Comparison("another", fail)], 1, until=1.9)
    run.training(until=1.9)
    said = capsys.readouterr().out
    for name in ("a sum", "another", "training"):
        assert f"left out for lack of time: {name}" in said
    assert not run.failed
    case = Case("sum", "torch", "N1048576", "float32", make_sum)
    run.measure([Comparison("a sum", lambda: [case]), Comparison("broken", fail)], 1, until=9)
    assert "sum N1048576 float32 torch" in capsys.readouterr().out
    assert run.failed == ["broken: MemoryError: too large"]


def test_peers_are_compiled_where_their_checkouts_are_given():
    def names(checkouts):
        """The providers of the training steps; the other comparisons are built with tensors on the device."""
        found = gpu_clouds.launched_otherwise(gpu_clouds.FULL, "cuda", checkouts)
        return {case.provider for one in found if "_step" in one.name for case in one.build()}

    ours = {"dropfold", "dropfold graph", "dropfold compiled"}
    assert names({}) == ours
    both = names({"antao97": Path("a"), "yanx27": Path("b")})
    assert both == ours | {f"{peer}{how}" for peer in ("antao97", "yanx27") for how in ("", " compiled")}
    assert list(gpu_clouds.launched_otherwise(gpu_clouds.SMALL, "cuda", {}))  # which has no training steps


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
