"""Matching losses that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

RatioPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.ratio:Ratio")
NearestStepPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.nearest:NearestStep")
MaskedPlugin = offers("ddfw_register_losses", "ddfw_plugins.losses.masked:Masked")
