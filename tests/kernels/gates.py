"""The gates under the name that tests use."""

from benchmarks.gates import TARGETS, Ledger, Resources, compile_only, launches, ledger

__all__ = ["TARGETS", "Ledger", "Resources", "compile_only", "launches", "ledger"]
