"""Recipes: Python functions that return complete configs, one file a system."""
