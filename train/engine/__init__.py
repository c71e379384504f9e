"""Training itself."""
