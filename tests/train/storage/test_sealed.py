"""Checksums inside files: any changed bit is found; files of older versions and of other programs' readers still open."""

import io
import json
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from dropfold.train.config.configs import Signature
from dropfold.train.config.recipes import recipe
from dropfold.train.storage import checkpoint, sealed
from dropfold.train.storage.sealed import DamagedError

STATE = {"model": {"w": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(3)}, "epoch": 3, "lr": 0.1}
WEIGHTS = {"w": torch.arange(6.0).to(torch.bfloat16), "b": torch.tensor(2)}
ARRAYS = {"logits": np.eye(3), "label": np.arange(3)}
SUMMARY = {"test/overall_accuracy": 0.75, "data": "0123abcd", "nan": float("nan"), "list": [1, [2.5, None]]}
KINDS = {
    "checkpoint.pt": (checkpoint.save_state, STATE, checkpoint.load_state),
    "best.safetensors": (checkpoint.save_weights, WEIGHTS, checkpoint.load_weights),
    "predictions.npz": (checkpoint.save_arrays, ARRAYS, checkpoint.load_arrays),
    "summary.json": (checkpoint.save_json, SUMMARY, lambda path: checkpoint.load_summary(path.parent)),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    save, value, load = KINDS[request.param]
    path = tmp_path / request.param
    save(path, value)
    return path, value, load


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(value, b[name]) for name, value in a.items())
    if isinstance(a, torch.Tensor | np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return repr(a) == repr(b)


def test_what_is_written_is_read(kind, capsys):
    path, value, load = kind
    assert equal(load(path), value)
    assert capsys.readouterr().err == ""


def test_any_flipped_bit_is_refused(kind, tmp_path):
    """400 bits over the whole file, and one in each of its first and last bytes, where lengths and checksum lie."""
    path, _, load = kind
    content = path.read_bytes()
    random = np.random.default_rng(0)
    places = [*random.integers(0, len(content), 400), *range(len(content) - 100, len(content)), *range(16)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        if path.suffix == ".json" and is_same_json(changed, content):
            continue  # a blank for another: nothing was changed
        with pytest.raises(DamagedError, match=path.name):
            load(path)


def is_same_json(a, b):
    try:
        return json.loads(a) == json.loads(b) or repr(json.loads(a)) == repr(json.loads(b))
    except ValueError:
        return False


def test_a_cut_file_is_refused_and_the_sentence_says_what_to_do(kind):
    path, _, load = kind
    content = path.read_bytes()
    for length in (0, 1, 20, len(content) // 2, len(content) - 1 - (path.suffix == ".json")):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError, match=r"damaged.*(Put a copy|Delete it|train anew)"):
            load(path)
    path.write_bytes(content + b"x")
    with pytest.raises(DamagedError):
        load(path)


def test_other_programs_read_the_files(tmp_path):
    for name, (save, value, _) in KINDS.items():
        save(tmp_path / name, value)
    assert equal(torch.load(tmp_path / "checkpoint.pt", weights_only=True), STATE)
    assert equal(safetensors.torch.load_file(tmp_path / "best.safetensors"), WEIGHTS)
    with np.load(tmp_path / "predictions.npz") as found:
        assert equal(dict(found), ARRAYS)
    assert zipfile.ZipFile(tmp_path / "checkpoint.pt").testzip() is None
    assert json.loads((tmp_path / "summary.json").read_text())["data"] == SUMMARY["data"]


def test_files_of_older_versions_are_read_with_a_note(tmp_path, capsys):
    """Of archives each part has a checksum of its own; a flipped bit in a tensor is found by it."""
    (tmp_path / "old").mkdir()
    old = {name: tmp_path / "old" / name for name in KINDS}
    torch.save(STATE, old["checkpoint.pt"])
    safetensors.torch.save_file(WEIGHTS, old["best.safetensors"])
    np.savez_compressed(old["predictions.npz"], **ARRAYS)
    old["summary.json"].write_text(json.dumps(SUMMARY))
    for name, (_, value, load) in KINDS.items():
        assert equal(load(old[name]), value)
    said = capsys.readouterr().err
    assert said.count("carries no checksum, as an older version wrote it") == 1
    content = old["checkpoint.pt"].read_bytes()
    data = STATE["model"]["w"].numpy().tobytes()
    for bit in range(25):
        changed = bytearray(content)
        changed[content.index(data) + bit % len(data)] ^= 1 << bit % 8
        old["checkpoint.pt"].write_bytes(changed)
        with pytest.raises(DamagedError, match=r"the checksum of its part .* differs"):
            checkpoint.load_state(old["checkpoint.pt"])


def test_an_archive_that_other_programs_commented_is_not_taken_for_an_old_one(tmp_path):
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    content = buffer.getvalue()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content[:-2] + b"\x03\x00abc")
    with pytest.raises(DamagedError):
        sealed.open_archive(path)


def test_a_lost_checksum_field_is_an_older_version_s_but_a_wrong_one_is_not(tmp_path):
    path = tmp_path / "summary.json"
    checkpoint.save_json(path, SUMMARY)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "data": "other"}))
    with pytest.raises(DamagedError, match="was changed after it was written"):
        checkpoint.load_summary(tmp_path)


@pytest.mark.parametrize("value", [["furniture"], {"a": 1}, 3, None])
def test_a_config_with_a_recipe_of_any_type_is_refused_by_its_checksum(value, tmp_path):
    checkpoint.save_config(tmp_path / "config.json", recipe("furniture"), Signature(["a", "b"], shape=(8, 3)))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "recipe": value, "sha256": values["sha256"]}))
    with pytest.raises(
        DamagedError, match=r"was changed after the run wrote it.* dropfold train RECIPE with"
    ):
        checkpoint.load_config(tmp_path)
