"""Batch normalisation around an operation: what is left when its big sums are known."""
