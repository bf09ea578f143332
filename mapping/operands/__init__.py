"""Parameters that a model multiplies by itself, on tiles."""
