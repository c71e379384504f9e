"""The command: a smaller run out of a run."""
