"""Recipes, files and flags are merged into one configuration, whose fields are components and settings."""
