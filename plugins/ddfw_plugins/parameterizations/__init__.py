"""Parameterisations that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

PixelPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.pixel:Pixel")
LowRankSpacePlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.lss:LowRankSpace")
LinearBasesPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.linba:LinearBases")
FrequencyPlugin = offers("ddfw_register_parameterizations", "ddfw_plugins.parameterizations.fred:FrequencyCoefficients")
MultiFormationPlugin = offers(
    "ddfw_register_parameterizations", "ddfw_plugins.parameterizations.multiformation:MultiFormation"
)
