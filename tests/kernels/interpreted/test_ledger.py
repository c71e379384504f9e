"""The noises, edge_conv and the passes over groups touch at most 1.1 times the bytes that their results need."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("bytes are counted in the interpreter", allow_module_level=True)

from benchmarks.ledger import entries


def test_bytes_are_within_a_tenth_of_the_least():
    found = entries()
    assert len(found) == 9
    for entry in found:
        assert entry.ratio <= 1.1, entry
