"""What a run is: its config, and the recipes."""
