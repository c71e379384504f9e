"""Textbook forms in float64: edges, activations and masks are made, nothing is clever."""
