"""Label strategies that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class HardPlugin:
    """The plugin that offers `hard`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.labels.hard import Hard

        return [Hard]


class SoftPlugin:
    """The plugin that offers `soft`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.labels.soft import Soft

        return [Soft]


class TeacherPlugin:
    """The plugin that offers `teacher`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.labels.teacher import Teacher

        return [Teacher]
