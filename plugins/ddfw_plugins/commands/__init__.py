"""Commands of `ddfw` beyond the core's own; a command's module is imported when it is called."""

from __future__ import annotations

from types import SimpleNamespace

from ddfw import Command, offers


def _offer(name: str, summary: str, target: str) -> SimpleNamespace:
    """The object of an entry point that offers a command of this package."""
    return offers(
        "ddfw_register_commands", Command(name=name, summary=summary, target=f"ddfw_plugins.commands.{target}")
    )


SweepPlugin = _offer(
    "sweep",
    "Try values of any settings, each combination an ordinary run, and rank them by validation accuracy.",
    "sweep.command:sweep_command",
)
ComparePlugin = _offer(
    "compare",
    "Run several ways to distil at equal cost, and compare them over run seeds.",
    "compare.command:compare_command",
)
BenchPlugin = _offer(
    "bench", "Measure ddfw against a plain trajectory-matching loop, on this machine.", "bench.command:bench_command"
)
GradientPlugin = _offer(
    "gradient",
    "Measure how far TESLA's approximate meta-gradient is from the exact one.",
    "gradient.command:gradient_command",
)
RecipesPlugin = _offer(
    "recipes", "Settings that ship with ddfw, each with its source; `ddfw run NAME` runs one.", "recipes:recipes_group"
)
ExportPlugin = _offer("export", "Write the learned set of RUN for other programs.", "export:export_command")
CachePlugin = _offer("cache", "Rows of baselines that were measured before: list, clear.", "cache:cache_group")
ExtendPlugin = _offer("extend", "Continue a finished run to more outer steps.", "extend:extend_command")
ExpertsPlugin = _offer(
    "experts", "Networks whose training is matched: train, list, show, import, remove.", "experts:experts_group"
)
