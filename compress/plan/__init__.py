"""Which channels belong together."""
