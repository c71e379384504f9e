"""Predictions of a trained network: for files, and for whole splits."""
