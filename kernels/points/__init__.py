"""Clouds and the points near a point: neighbours, balls, samples, interpolation."""
