"""Settings that ship with ddfw: recipes, and comparisons of several ways to distil."""

from __future__ import annotations

from pathlib import Path

from ddfw import hookimpl


class RecipesPlugin:
    """Offers the recipes and comparisons in this folder."""

    @staticmethod
    @hookimpl
    def ddfw_register_recipes() -> list[Path]:
        """Called when recipes are looked up."""
        return [Path(__file__).parent]
