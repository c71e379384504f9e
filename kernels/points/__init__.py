"""Clouds and the points around a point: neighbours, balls, samples, interpolation."""
