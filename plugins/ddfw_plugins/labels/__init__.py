"""Label strategies that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

HardPlugin = offers("ddfw_register_labels", "ddfw_plugins.labels.hard:Hard")
SoftPlugin = offers("ddfw_register_labels", "ddfw_plugins.labels.soft:Soft")
TeacherPlugin = offers("ddfw_register_labels", "ddfw_plugins.labels.teacher:Teacher")
