"""Data sets of videos, a script each."""
