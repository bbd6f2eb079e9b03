"""Executors; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

CpuPlugin = offers("ddfw_register_executors", "ddfw_plugins.executors.cpu:Cpu")
CudaPlugin = offers("ddfw_register_executors", "ddfw_plugins.executors.cuda:Cuda")
TorchrunPlugin = offers("ddfw_register_executors", "ddfw_plugins.executors.torchrun:Torchrun")
RayPlugin = offers("ddfw_register_executors", "ddfw_plugins.executors.ray:Ray")
