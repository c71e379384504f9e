"""Unit ablation."""
