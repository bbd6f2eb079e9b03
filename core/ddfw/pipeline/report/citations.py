"""The papers that a run cites: those of its components, and those behind settings that are no component."""

from __future__ import annotations

import re
from importlib import resources

from ddfw.config.run_config import COMPONENT_TABLES, RunConfig


def citations(config: RunConfig) -> list[str]:
    """The BibTeX entries of the run's components and of settings that come from a paper, each once."""
    found = [getattr(config, table).citation for table in COMPONENT_TABLES]
    return list(dict.fromkeys(citation for citation in [*found, *_of_settings(config)] if citation))


def _of_settings(config: RunConfig) -> list[str]:
    """The entries of settings.bib for settings that differ from the plain method."""
    text = resources.files(__package__).joinpath("settings.bib").read_text(encoding="utf-8")
    entries = {re.split("[{,]", entry)[1]: entry.strip() for entry in text.split("\n\n")}
    outer = config.outer
    asked = {
        "du2023ftd": config.experts.optimiser == "gsam" or outer.ema > 0,
        "guo2024datm": outer.images == "recognised" or outer.skip_above is not None,
        "cui2023tesla": config.gradient.method == "tesla",
    }
    return [entries[key] for key, is_asked in asked.items() if is_asked]
