"""Ways to run a plan's work."""
