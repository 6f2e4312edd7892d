"""Training: recipes, losses, where the examples come from, and the engine."""
