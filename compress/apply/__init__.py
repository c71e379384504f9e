"""A smaller network out of what was chosen."""
