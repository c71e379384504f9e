"""Data sets of shapes and their parts, a script each."""
