"""Which configurations the user has run: their hashes, in a file that is the user's own.

The config.toml of a run directory can come from anyone. It counts as the user's own if exactly this configuration was
run before by this user: a text with the same hash asks for nothing that was not asked for already. Directories can be
moved and copied, and nothing in a directory can mark itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def own_runs_file() -> Path:
    """The file with the hashes: `$XDG_STATE_HOME/ddfw/own-runs`, or `~/.local/state/ddfw/own-runs`."""
    given = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~/.local/state"))
    return folder / "ddfw" / "own-runs"


def remember_run(text: str) -> None:
    """Adds a configuration to those that the user has run; nothing happens where the file cannot be written.

    Args:
        text: the text of config.toml.
    """
    if is_own_run(text):
        return
    file = own_runs_file()
    # A run is not worth less on a machine where the home folder is missing or full: its directory then counts as one
    # from elsewhere, which --trust-config answers.
    with contextlib.suppress(OSError):
        if file.exists() and not file.is_file():
            return
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        where = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(where, f"\n{_sha256(text)}\n".encode())  # on a line of its own, whatever stands before it
        finally:
            os.close(where)


def is_own_run(text: str) -> bool:
    """Whether the user has run exactly this configuration.

    Args:
        text: the text of config.toml.
    """
    file = own_runs_file()
    try:
        known = file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""
    except OSError:
        return False
    return _sha256(text) in known.split()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
