"""The files of a run, and where its figures come from."""
