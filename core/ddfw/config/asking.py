"""Asks the plugins what they offer in a child process, so that no plugin can hang, end or disturb this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ddfw.errors import PluginError

#: How long one plugin may take to be imported or to answer, in seconds; it is left out afterwards.
LIMIT_S = 60.0
#: How long ddfw and torch may take to be imported, in seconds.
_OWN_LIMIT_S = 600.0
_DISABLED = "DDFW_DISABLE_PLUGINS"
#: Set in the environment of the child process that asks.
ASKING = "_DDFW_ASKING_PLUGINS"
#: -P, and the parent's search path: the child imports what this process would.
_CODE = (
    "import sys; sys.path[:] = sys.argv[4:]; from pathlib import Path; from ddfw.config.snapshot import write_answer; "
    "write_answer(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))"
)


def ask_plugins(part: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """What the plugins offer, as `write_answer` of the snapshot stores it; a plugin that does not return is left out.

    Args:
        part: `outline`; or `components` or `met`, each with the outline.
        limit_s: how long one plugin may take, in seconds.

    Raises:
        PluginError: the child process fails for a reason that is no plugin's.
    """
    left_out: dict[str, str] = {}
    while True:
        with tempfile.TemporaryDirectory(prefix="ddfw-") as folder:
            result, progress = Path(folder) / "result.json", Path(folder) / "progress"
            progress.write_text("")
            reason = _ended(part, result, progress, tuple(left_out), limit_s)
            if result.is_file():
                return _with_failures(json.loads(result.read_bytes()), left_out)
            culprit = progress.read_text()
        if not culprit or culprit in left_out:
            raise PluginError(f"the plugins cannot be asked in a process of their own: {reason}")
        left_out[culprit] = reason


def _ended(part: str, result: Path, progress: Path, left_out: tuple[str, ...], limit_s: float) -> str:
    """Runs the child to its end and says how it ended."""
    disabled = ",".join(filter(None, (os.environ.get(_DISABLED, ""), *left_out)))
    paths = [path or os.getcwd() for path in sys.path]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, part, str(result), str(progress), *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, _DISABLED: disabled, ASKING: "1"},
        start_new_session=True,
    )
    try:
        return _waited(child, result, progress, limit_s)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # with whatever a plugin has started
            child.wait()


def _waited(child: subprocess.Popen[bytes], result: Path, progress: Path, limit_s: float) -> str:
    said, since = "", time.monotonic()
    while True:
        try:
            code = child.wait(0.05)
        except subprocess.TimeoutExpired:
            now = progress.read_text()
            if now != said:
                said, since = now, time.monotonic()
            limit = limit_s if said else _OWN_LIMIT_S
            if result.is_file() or time.monotonic() - since <= limit:
                continue
            return f"it did not answer within {limit:g} s"
        return f"it ended the process with exit code {code}" if code >= 0 else f"it ended the process by signal {-code}"


def _with_failures(record: dict[str, Any], left_out: dict[str, str]) -> dict[str, Any]:
    """The record in which plugins that were left out count as failed and not as disabled."""
    found = [plugin for plugin in record["outline"]["plugins"] if plugin["identity"] in left_out]
    for plugin in found:
        plugin.update(status="failed", stage="load", error=left_out[plugin["identity"]])
    for part in {"components", "met"} & set(record):
        # Told here too: the outline may have been read before, when the plugin still worked.
        record[part]["left_out"] = [dict(plugin) for plugin in found]
    return record
