"""Data sets of rooms and scenes, a script each."""
