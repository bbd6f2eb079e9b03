"""Parameterisations; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

PixelPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.pixel:Pixel")
LowRankSpacePlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.lss:LowRankSpace")
LinearBasesPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.linba:LinearBases")
FrequencyPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.fred:FrequencyCoefficients")
MultiFormationPlugin = offers(
    "ddfw_register_parameterizations", "ddfw_plugins.parameterizations.multiformation:MultiFormation"
)
