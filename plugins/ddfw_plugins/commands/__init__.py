"""Commands of `ddfw` beyond the core's own; a command's module is imported when it is called."""

from __future__ import annotations

from ddfw import Command, hookimpl


class SweepPlugin:
    """Offers `ddfw sweep`."""

    @staticmethod
    @hookimpl
    def ddfw_register_commands() -> list[Command]:
        """Called when `ddfw` lists its commands or looks one up."""
        summary = "Try values of any settings, each combination an ordinary run, and rank them by validation accuracy."
        return [Command(name="sweep", summary=summary, target="ddfw_plugins.commands.sweep.command:sweep_command")]


class ComparePlugin:
    """Offers `ddfw compare`."""

    @staticmethod
    @hookimpl
    def ddfw_register_commands() -> list[Command]:
        """Called when `ddfw` lists its commands or looks one up."""
        summary = "Run several ways to distil at equal cost, and compare them over run seeds."
        return [
            Command(name="compare", summary=summary, target="ddfw_plugins.commands.compare.command:compare_command")
        ]


class BenchPlugin:
    """Offers `ddfw bench`."""

    @staticmethod
    @hookimpl
    def ddfw_register_commands() -> list[Command]:
        """Called when `ddfw` lists its commands or looks one up."""
        summary = "Measure ddfw against a plain trajectory-matching loop, on this machine."
        return [Command(name="bench", summary=summary, target="ddfw_plugins.commands.bench.command:bench_command")]


class GradientPlugin:
    """Offers `ddfw gradient`."""

    @staticmethod
    @hookimpl
    def ddfw_register_commands() -> list[Command]:
        """Called when `ddfw` lists its commands or looks one up."""
        summary = "Measure how far TESLA's approximate meta-gradient is from the exact one."
        return [
            Command(name="gradient", summary=summary, target="ddfw_plugins.commands.gradient.command:gradient_command")
        ]
