"""A short run of the fuzzer over all formats; and the fuzzer itself, with readers whose faults are known."""

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Work
from tests.fuzz.formats import FORMATS, PLANTED
from tests.fuzz.inputs import BAD, judge, make_input

BROKEN, VALID = 5, 1  # inputs of each format; `make fuzz` reads thousands
SECONDS = 60.0  # of reading an input, where other tests share the cores
SEED = 24


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Inputs of all formats, then those of the planted faults, the last of which end the process that reads."""
    work = campaign.deal(SEED, list(FORMATS), BROKEN * len(FORMATS), VALID, SECONDS)
    work += [Work(SEED, name, name == "wrong", 3, seconds=1.0) for name in PLANTED]
    return campaign.run(work, 1, tmp_path_factory.mktemp("fuzz"))


def test_broken_files_are_named_and_valid_ones_read(outcome):
    failures = [one for one in outcome.failures if one.work.name in FORMATS]
    assert not failures, "\n".join(map(campaign.describe, failures))
    counts = {key: count for key, count in outcome.counts.items() if key[0] in FORMATS}
    assert sum(counts.values()) == (BROKEN + VALID) * len(FORMATS)
    assert (
        sum(count for (_, valid, verdict), count in counts.items() if verdict == "refused" and not valid)
        > 100
    )


def test_every_planted_fault_is_found(outcome):
    found = {name: verdict for name, _, verdict in outcome.counts if name in PLANTED}
    assert found == {name: name.split()[0] for name in PLANTED}
    failures = [one for one in outcome.failures if one.work.name in PLANTED]
    assert len(failures) == len(PLANTED) - 2
    for failure in failures:
        assert (failure.saved / "input.txt").is_file()
        assert f"--seed {SEED} --only '{failure.work.label}'" in campaign.describe(failure)
    rows = [row.split() for row in campaign.table(outcome).splitlines()]
    assert rows[0] == ["format", "read", "refused", *BAD, "valid", "read", "right"]
    assert ["memory", "0", "0", "0", "0", "0", "0", "1", "0", "0", "0", "0"] in rows


@pytest.mark.parametrize("name", ["ply", "h5 shapes", "checkpoint.pt"])
def test_an_input_is_made_anew_from_its_seed(name, tmp_path):
    """But for the time that HDF5 and zip archives write into their files."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    a, b = (make_input(SEED, name, False, 5, tmp_path / folder) for folder in ("a", "b"))
    c = make_input(SEED + 1, name, False, 5, tmp_path / "c")
    assert (a.done, judge(a)[0]) == (b.done, judge(b)[0])
    assert a.path.read_bytes() != c.path.read_bytes()
