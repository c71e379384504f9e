"""Where a network is cut, what it is called with, and its forwards with leaves in place."""
