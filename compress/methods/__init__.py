"""What to keep: one method a file."""
