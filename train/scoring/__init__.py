"""Losses, predictions and metrics."""
