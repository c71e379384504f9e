"""Benchmarks: cases beside their peers, the gates that need no GPU, and rows of results."""
