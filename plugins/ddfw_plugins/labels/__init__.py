"""Label strategies; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class HardPlugin:
    """Offers `hard`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.labels.hard import Hard

        return [Hard]


class SoftPlugin:
    """Offers `soft`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.labels.soft import Soft

        return [Soft]


class TeacherPlugin:
    """Offers `teacher`."""

    @staticmethod
    @hookimpl
    def ddfw_register_labels() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.labels.teacher import Teacher

        return [Teacher]
