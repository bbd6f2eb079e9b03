"""`ddfw sweep`: tries values of any settings, each combination in a run. From Python: `run("ranks.toml")`."""

from ddfw_plugins.commands.sweep.runner import run as run
