"""What a map is worth: dropping curves, the two-shape game, sanity checks."""
