"""Collections move between backends, and keep every promise meanwhile."""
