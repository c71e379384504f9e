"""A short run of the fuzzer over all formats; and the fuzzer itself, with readers whose faults are known."""

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Work
from tests.fuzz.formats import FORMATS, PLANTED
from tests.fuzz.inputs import judge, make_input

BROKEN, VALID = 6, 1  # inputs of each format; `make fuzz` reads thousands
SEED = 24


def test_broken_files_are_named_and_valid_ones_read(tmp_path):
    work = campaign.deal(SEED, list(FORMATS), BROKEN * len(FORMATS), VALID)
    outcome = campaign.run(work, 1, tmp_path)
    assert not outcome.failures, "\n".join(map(campaign.describe, outcome.failures))
    assert sum(outcome.counts.values()) == len(work) == (BROKEN + VALID) * len(FORMATS)
    assert (
        sum(
            count
            for (_, valid, verdict), count in outcome.counts.items()
            if (valid, verdict) == (False, "refused")
        )
        > 100
    )


def test_every_planted_fault_is_found(tmp_path):
    """In its own process, too; the others are read after a process was killed."""
    work = [Work(SEED, name, name == "wrong", 3) for name in PLANTED]
    outcome = campaign.run(work, 1, tmp_path, seconds=2.0)
    found = {name: verdict for name, _, verdict in outcome.counts}
    assert found == {name: name.split()[0] for name in PLANTED}
    assert len(outcome.failures) == len(PLANTED) - 2
    for failure in outcome.failures:
        assert (failure.saved / "input.txt").is_file()
        assert f"--seed {SEED} --only '{failure.work.label}'" in campaign.describe(failure)
    row = campaign.table(outcome).splitlines()[-1].split()
    assert row == ["all", "1", "1", "1", "1", "1", "2", "1", "1", "1", "1", "0"]


@pytest.mark.parametrize("name", ["ply", "h5 shapes", "checkpoint.pt"])
def test_an_input_is_made_anew_from_its_seed(name, tmp_path):
    """But for the time that HDF5 and zip archives write into their files."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    a, b = (make_input(SEED, name, False, 5, tmp_path / folder) for folder in ("a", "b"))
    c = make_input(SEED + 1, name, False, 5, tmp_path / "c")
    assert (a.done, judge(a)[0]) == (b.done, judge(b)[0])
    assert a.path.read_bytes() != c.path.read_bytes()
