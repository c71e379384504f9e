"""Smaller networks out of trained ones."""
