"""What a network and its parts cost."""
