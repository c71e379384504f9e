"""What the commands time: ours, the peers that do the same, and the limits of ours."""
