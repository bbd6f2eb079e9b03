"""The two pluggy markers; light on purpose, so that a plugin's hook module never loads torch."""

from __future__ import annotations

import pluggy

#: Marks a function of a plugin as an implementation of one of the hooks in `ddfw.hookspecs`.
hookimpl = pluggy.HookimplMarker("ddfw")
#: Marks the specifications themselves; plugins have no use for it.
hookspec = pluggy.HookspecMarker("ddfw")
