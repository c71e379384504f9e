"""Weights of other projects in our networks."""

from dropfold.models.convert.clouds import from_pyg, load, load_antao97, load_yanx27

__all__ = ["from_pyg", "load", "load_antao97", "load_yanx27"]
