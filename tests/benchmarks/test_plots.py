"""Pictures of committed rows."""

import csv
from dataclasses import asdict, fields

import pytest

from benchmarks import plots
from benchmarks.harness import Row


def row(operation, shape, provider, ms, *, commit="new", peak=None):
    return Row(
        "2026-01-01", commit, "a machine", "2.9", "cpu", operation, provider, shape, "float32", 3,
        ms, ms, ms, peak, None, None,
    )  # fmt: skip


def written(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
    return path


def test_the_latest_run_of_each_comparison_is_drawn(tmp_path):
    old = [row("knn", "B8-N1024-C3-k20", name, 1, commit="old") for name in ("dropfold", "kd-tree")]
    new = [row("knn", "B8-N1024-C3-k20", name, 2) for name in ("dropfold", "limit: bytes")]
    again = [row("edge_conv_fwd_bwd", "B8", "dropfold", ms) for ms in (3, 4)]
    found = plots.read([written(tmp_path / "rows.csv", [*old, *new, *again])])
    assert [[(r["provider"], r["p50_ms"]) for r in rows] for rows in found] == [
        [("dropfold", "2"), ("limit: bytes", "2")],
        [("dropfold", "4")],
    ]


def test_all_pictures_are_drawn_and_shown(tmp_path, capsys):
    found = [
        row("dgcnn_step", "B8-N1024-k20", name, ms, peak=peak)
        for name, ms, peak in (
            ("dropfold", 300, 445.0),
            ("antao97", 3600, 1583.0),
            ("limit: GEMMs", 200, None),
        )
    ]
    for n in (1024, 2048):
        found += [row("knn", f"B8-N{n}-C3-k20", name, n, peak=50.0) for name in ("dropfold", "cdist + topk")]
    found.append(row("ball_query", "B8-N1024-S512-r0.2-k32", "dropfold", 2))
    for shape in ("B4-N256-k20", "B8-N256-k20", "B8-N512-k20", "B8-N256-k40", "B8-N256-k20-threads1"):
        found.append(row("dgcnn_scaling", shape, "dropfold", 10))
    for network in ("dgcnn", "pointnet"):
        for shape in ("B16-N256", "B16-N512", "B8-N512"):
            for name, ms in (("dropfold", 20), ("drawing alone", 1)):
                found.append(row(f"{network}_epoch", shape, name, ms))
    found.append(row("lstm_forward_backward", "M57600-H256-B16-T6", "dropfold tt", 20))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{plots.START}\nstale\n{plots.END}\nafter\n")
    rows = plots.read([written(tmp_path / "rows.csv", found)])
    drawn = plots.draw(rows, tmp_path / "pictures")
    names = [picture.name for picture, _ in drawn]
    assert names == ["steps", "operations", "scene_operations", "knn", "scaling", "epochs", "rnn"]
    for _ in range(2):  # the page is the same however often it is written
        plots.show(drawn, tmp_path / "pictures", page)
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "stale" not in text
        for name in names:
            assert text.count(f"![{name}](pictures/{name}.png)") == 1
            assert (tmp_path / f"pictures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "commits new on a machine, 2026-01-01, medians of 3" in text
    assert plots.draw([], tmp_path / "pictures") == []
    assert "not drawn, no rows: knn" in capsys.readouterr().out


def test_a_page_without_markers_is_an_error(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match="must hold the lines"):
        plots.show([], tmp_path, tmp_path / "page.md")
