"""The fixtures of the command line's own tests, for commands that plugins offer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_path = Path(__file__).parents[2] / "core" / "cli" / "conftest.py"
_spec = importlib.util.spec_from_file_location("fixtures_of_the_command_line", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

ddfw, tiny, here, plain_terminal = _module.ddfw, _module.tiny, _module.here, _module.plain_terminal
finished, streamed = _module.finished, _module.streamed
