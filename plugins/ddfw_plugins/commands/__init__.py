"""Commands that ship with ddfw as plugins; a command's module is imported only when the command is called."""

from __future__ import annotations

from ddfw import Command, offers

SweepPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="sweep",
        summary="Try values of any settings, each combination an ordinary run, and rank them by validation accuracy.",
        target="ddfw_plugins.commands.sweep.command:sweep_command",
    ),
)
ComparePlugin = offers(
    "ddfw_register_commands",
    Command(
        name="compare",
        summary="Run several ways to distil at equal cost, and compare them over run seeds.",
        target="ddfw_plugins.commands.compare.command:compare_command",
    ),
)
BenchPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="bench",
        summary="Measure ddfw against a plain trajectory-matching loop, on this machine.",
        target="ddfw_plugins.commands.bench.command:bench_command",
    ),
)
GradientPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="gradient",
        summary="Measure how far TESLA's approximate meta-gradient is from the exact one.",
        target="ddfw_plugins.commands.gradient.command:gradient_command",
    ),
)
RecipesPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="recipes",
        summary="Settings that ship with ddfw, each with its source; `ddfw run NAME` runs one.",
        target="ddfw_plugins.commands.recipes:recipes_group",
    ),
)
ExportPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="export",
        summary="Write the learned set of RUN for other programs.",
        target="ddfw_plugins.commands.export:export_command",
    ),
)
ExpertsPlugin = offers(
    "ddfw_register_commands",
    Command(
        name="experts",
        summary="Networks whose training is matched: train, list, show, import, remove.",
        target="ddfw_plugins.commands.experts:experts_group",
    ),
)
