"""Settings that ship with ddfw: recipes, and comparisons of several ways to distil."""

from __future__ import annotations

from pathlib import Path

from ddfw import offers

RecipesPlugin = offers("ddfw_register_recipes", Path(__file__).parent)
