"""The file in the user's cache folder that holds what plugins offer; it is made anew whenever it may be outdated."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ddfw.artifacts.atomic import write_text
from ddfw.artifacts.temporaries import tidy
from ddfw.config.asking import ASKING, LIMIT_S, ask_plugins
from ddfw.errors import PluginError
from ddfw_registry import Source, is_named, listed_in

#: Grows when the meaning of the file changes.
_SCHEMA = 2
_PLUGINS, _DISABLED = "DDFW_PLUGINS", "DDFW_DISABLE_PLUGINS"
#: Files of other environments that are kept, and how long a failure is believed, in seconds.
_KEPT, _FAILURE_AGE_S = 40, 3600.0
#: Python files near a broken plugin that are watched for a repair.
_WATCHED = 300


def read_record(part: str, limit_s: float | None = None) -> Mapping[str, Any]:
    """What plugins offer: from the file, or from the plugins, which are asked in a child process and then stored.

    Args:
        part: `outline`, `components`, or `met` for plugins that end or hang a process alone.
        limit_s: how long one plugin may take to answer, in seconds; None for a minute.

    Raises:
        PluginError: nothing is stored, and the plugins cannot be asked.
    """
    stored = stored_record(part)
    if stored is not None:
        return stored
    files = {"outline": _file("outline"), part: _file(part)}
    asked = ask_plugins(part, LIMIT_S if limit_s is None else limit_s)
    stamps, began = _stamps(asked), asked["began"]
    if all(stamp is None or stamp[0] < began for stamp in stamps.values()):  # not edited meanwhile
        for name, file in files.items():
            _store(file, name, asked[name], stamps, bool(_failing(asked)))
    record: Mapping[str, Any] = asked[part]
    return record


def harmful_plugins() -> Mapping[str, str]:
    """Plugins that end the process in which they are imported or asked, or never return, by identity, with the reason.

    They were met in a child process: now, or before if nothing has changed since. Within that process there are none.
    """
    if ASKING in os.environ:
        return {}
    try:
        record = stored_record("components") or read_record("met")
    except PluginError:
        return {}  # no child process can be started; the plugins are met in this one
    return {row["identity"]: row["error"] for row in record.get("left_out", ())}


@cache
def stored_record(part: str) -> Mapping[str, Any] | None:
    """What the file holds, None if there is none or it may be outdated; no plugin is asked.

    Where plugins are disabled and only the answer with all of them is stored, they are left out of it.
    """
    record = _loaded(_file(part), part)
    disabled = listed_in(os.environ, _DISABLED)
    if record is not None or not disabled:
        return record
    everything = {name: _loaded(_file(name, disabled=""), name) for name in ("outline", part)}
    outline, wanted = everything["outline"], everything[part]
    return None if outline is None or wanted is None else _without(part, wanted, outline, disabled)


def forget_records() -> None:
    """Has the files looked at again, as at the start of a command."""
    stored_record.cache_clear()
    _installed.cache_clear()


def cache_folder() -> Path:
    """The folder of the user's cache in which these files lie: `$XDG_CACHE_HOME/ddfw`, or `~/.cache/ddfw`."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~/.cache"))) / "ddfw"


def _file(part: str, disabled: str | None = None) -> Path:
    """The file for this environment: Python, the installed distributions, and the variables that choose plugins."""
    extra = listed_in(os.environ, _PLUGINS)
    chosen = listed_in(os.environ, _DISABLED) if disabled is None else ()
    paths = [os.sep in word or word.endswith(".py") for word in extra]
    local = [str(Path(w).expanduser().resolve()) if path else w for w, path in zip(extra, paths, strict=True)]
    key = [_SCHEMA, sys.version, sys.prefix, __file__, local, list(chosen), _installed()]
    return cache_folder() / f"{part}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


@cache
def _installed() -> list[Any]:
    """The installed distributions by their folders on the search path, each with the time of its entry points."""
    found: list[Any] = []
    for place in sys.path:
        names: list[Any] = []
        with contextlib.suppress(OSError), os.scandir(place or ".") as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")):
                    names.append([entry.name, _stamp(os.path.join(entry.path, "entry_points.txt"))])
        found.append([place or os.getcwd(), sorted(names)])
    return found


def _loaded(file: Path, part: str) -> Mapping[str, Any] | None:
    try:
        held = json.loads(file.read_bytes())
        record, stamps, made = held[part], held["stamps"], held["made"]
        if held["key"] != file.name or not isinstance(record, dict):
            return None
        if held["failing"] and not 0 <= time.time() - made < _FAILURE_AGE_S:
            return None
        if any(_stamp(path) != stamp for path, stamp in stamps.items()):
            return None
        if held["sha256"] != _digest(record):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record


def _store(file: Path, part: str, record: Mapping[str, Any], stamps: Mapping[str, Any], failing: bool) -> None:
    held = {"key": file.name, "made": time.time(), "failing": failing, "sha256": _digest(record)}
    with contextlib.suppress(OSError):  # nothing is stored then, and the plugins are asked the next time
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(file.parent)
        write_text(file, json.dumps({**held, "stamps": stamps, part: record}))
        stored = [old for part in ("outline", "components", "met") for old in file.parent.glob(f"{part}-*.json")]
        for old in sorted(stored, key=lambda path: path.stat().st_mtime_ns)[:-_KEPT]:
            old.unlink(missing_ok=True)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _stamp(path: str) -> list[int] | None:
    """Time and size of a file or folder, None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_mtime_ns, found.st_size]


def _stamps(asked: Mapping[str, Any]) -> dict[str, list[int] | None]:
    """The stamps of all files on which an answer depends."""
    paths = {*asked["files"]}
    for plugin in asked["outline"]["plugins"]:
        if plugin["status"] != "disabled":
            paths.update(_places(plugin["value"], plugin["status"] == "failed"))
    if _failing(asked):  # what is missing may appear in any of them
        paths.update(place for place in sys.path if place and os.path.isdir(place))
    return {path: _stamp(path) for path in sorted(paths)}


def _places(value: str, broken: bool) -> Iterable[str]:
    """Where a plugin's module may lie; of a broken plugin with the Python files around it."""
    if os.sep in value or value.endswith(".py"):
        found = [Path(value).expanduser().resolve()]
    else:
        name = value.partition(":")[0].strip().replace(".", os.sep)
        roots = [Path(place or ".", name) for place in sys.path]
        found = [p for root in roots for p in (root.with_suffix(".py"), root / "__init__.py") if p.is_file()][:1]
    yield from map(str, found)
    if broken and found:
        around = found[0].parent.rglob("*.py") if found[0].name == "__init__.py" else found[0].parent.glob("*.py")
        yield from (str(path) for path, _ in zip(around, range(_WATCHED), strict=False))


def _failing(asked: Mapping[str, Any]) -> bool:
    outline = asked["outline"]
    offers = [outline[key]["failures"] for key in ("command", "format", "recipes")]
    offers.append(asked.get("components", {}).get("failures", []))
    return any(offers) or any(plugin["status"] == "failed" for plugin in outline["plugins"])


def _without(
    part: str, record: Mapping[str, Any], outline: Mapping[str, Any], disabled: tuple[str, ...]
) -> Mapping[str, Any] | None:
    """A record as it would be with some plugins disabled; None if that cannot be told without asking the others."""
    keys = ("identity", "name", "distribution", "version", "value")
    sources = [Source(*(plugin[key] for key in keys)) for plugin in outline["plugins"]]
    gone = {s.identity for s in sources if any(is_named(word, s) for word in disabled)}
    offers = {key: value for key, value in record.items() if isinstance(value, dict)}
    clashes = any(plugin["stage"] == "register" for plugin in outline["plugins"])
    folders = any(row["plugin"] in gone for row in outline["recipes"]["entries"])
    if clashes or folders or any(value["duplicates"] for value in offers.values()):
        return None
    left = {**record, **{key: _left(value, gone) for key, value in offers.items()}}
    for key in {"failures", "left_out"} & set(record):
        left[key] = [row for row in record[key] if row["identity"] not in gone]
    if part == "outline":
        off = {"status": "disabled", "error": "", "stage": ""}
        left["plugins"] = [{**p, **(off if p["identity"] in gone else {})} for p in record["plugins"]]
        left["unknown_disabled"] = [w for w in disabled if not any(is_named(w, s) for s in sources)]
    return left


def _left(offers: Mapping[str, Any], gone: set[str]) -> dict[str, Any]:
    left = {**offers, "entries": [row for row in offers["entries"] if row["plugin"] not in gone]}
    if "failures" in offers:
        left["failures"] = [row for row in offers["failures"] if row["identity"] not in gone]
    return left
