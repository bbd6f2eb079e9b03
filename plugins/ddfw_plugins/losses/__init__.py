"""Matching losses; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

RatioPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.ratio:Ratio")
NearestStepPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.nearest:NearestStep")
MaskedPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.masked:Masked")
