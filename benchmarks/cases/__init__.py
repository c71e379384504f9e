"""What the commands time: ours, the peers that do the same, and the limits that neither can beat."""
