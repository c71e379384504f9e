"""Counter-based random numbers: the same on every device, a function of (seed, index) alone."""
