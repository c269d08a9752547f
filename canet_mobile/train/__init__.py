"""Recipes, losses, the trainer and the run directory it fills."""
