"""`ddfw sweep`: values of any settings, each combination an ordinary run. From Python: `run("ranks.toml")`."""

from ddfw_plugins.commands.sweep.runner import run as run
