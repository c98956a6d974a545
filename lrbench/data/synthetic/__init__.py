"""The embedded world: images whose pattern complexity is known."""
