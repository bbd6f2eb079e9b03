"""Where plugins come from: the entry points of installed distributions, and what the environment names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

#: The distribution that plugins named by the environment are filed under.
LOCAL = "local"

_ENTRY_POINTS = "entry_points.txt"
_VALUE = re.compile(r"\s*(?P<module>[\w.]+)\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")


@frozen
class Candidate:
    """A plugin that is known by name and not imported yet.

    Args:
        name: of the entry point, or the module.
        distribution: name of the distribution.
        version: of the distribution, "" if there is none.
        value: `module`, `module:attribute` or a path.
        module: name of the module that would be imported.
        load: imports it and returns the plugin object; raises whatever the plugin raises.
    """

    name: str
    distribution: str
    version: str
    value: str
    module: str
    load: Callable[[], object] = field(eq=False, repr=False)

    @property
    def identity(self) -> str:
        """`distribution:entry-point`."""
        return f"{self.distribution}:{self.name}"


def normalise(distribution: str) -> str:
    """A distribution's name in the one spelling in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def candidates(project: str, group: str, extra: Sequence[str]) -> list[Candidate]:
    """Every plugin there is, sorted by identity.

    Args:
        project: pluggy's project name.
        group: the entry-point group.
        extra: module names and paths of `.py` files.
    """
    found = [*_installed(group), *(_local(project, value) for value in extra)]
    return sorted(found, key=lambda candidate: (candidate.identity, candidate.value))


def _installed(group: str) -> Iterator[Candidate]:
    # importlib.metadata.entry_points() reads all distributions in one go: a single malformed file would hide every
    # plugin, so they are read one by one. It is imported here because it costs more than the rest of this package.
    from importlib.metadata import distributions

    seen: set[str] = set()
    for distribution in distributions():
        name = "unnamed"
        try:
            if group not in (distribution.read_text(_ENTRY_POINTS) or ""):
                continue  # most distributions have no plugins; parsing the metadata of all of them would be slow
            name = distribution.metadata["Name"]
            if normalise(name) in seen:
                continue
            seen.add(normalise(name))
            yield from _of_distribution(name, _first_on_path(distribution, name), group)
        except Exception as error:
            yield _broken(name, _ENTRY_POINTS, str(distribution.locate_file("")), error)


def _first_on_path(distribution: Distribution, name: str) -> Distribution:
    """What an import would see if several versions lie on the path; also when the first one offers no plugin."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as lookup

    try:
        return lookup(name)
    except PackageNotFoundError:  # the folder is called differently from the name written in it
        return distribution


def _of_distribution(name: str, distribution: Distribution, group: str) -> list[Candidate]:
    version = distribution.version or ""
    return [_entry_point(name, version, entry) for entry in distribution.entry_points.select(group=group)]


def _entry_point(distribution: str, version: str, entry: EntryPoint) -> Candidate:
    match = _VALUE.fullmatch(entry.value)
    if match is None:
        error = ValueError(f"the entry point's value {entry.value!r} is neither 'module' nor 'module:attribute'")
        return _broken(distribution, entry.name, entry.value, error, version)
    return Candidate(entry.name, distribution, version, entry.value, match["module"], entry.load)


def _broken(distribution: str, name: str, value: str, error: Exception, version: str = "") -> Candidate:
    """A plugin known to be unusable; it fails when loaded, as any other, unless it is disabled."""

    def load() -> object:
        raise error

    return Candidate(name, distribution, version, value, "", load)


def _local(project: str, value: str) -> Candidate:
    if os.sep not in value and not value.endswith(".py"):
        return Candidate(value, LOCAL, "", value, value, lambda: importlib.import_module(value))
    path = Path(value).expanduser().resolve()
    # Not the bare stem: a plugin file called like a library must not take the library's place.
    module = f"_{project}_local_{path.stem}"
    return Candidate(path.stem, LOCAL, "", value, module, lambda: _run_file(module, path))


def _run_file(name: str, path: Path) -> object:
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known  # as an import would: loading again would make second versions of its classes
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # String annotations and pickles look a class's module up by name, so it has to be there while the file runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
