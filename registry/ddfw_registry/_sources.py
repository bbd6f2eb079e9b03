"""Finds plugins without importing them: entry points of installed distributions, and names in the environment."""

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

#: The distribution's name for plugins that an environment variable names.
LOCAL = "local"

_ENTRY_POINTS = "entry_points.txt"
_VALUE = re.compile(r"\s*(?P<module>[\w.]+)\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")


@frozen
class Source:
    """Where a plugin comes from.

    Args:
        identity: the plugin's unique name `distribution:entry-point`.
        name: name of the entry point, or of the module.
        distribution: name of the distribution; `local` for plugins that an environment variable names.
        version: version of the distribution; "" if it has none.
        value: the entry point's value, `module` or `module:attribute`; or a path.
    """

    identity: str
    name: str
    distribution: str
    version: str
    value: str

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        """The five fields of this class, in their order."""
        return self.identity, self.name, self.distribution, self.version, self.value


@frozen
class Candidate(Source):
    """A plugin that was found but not imported yet.

    Args:
        module: name of the module that `load` imports.
        load: imports the plugin and returns the plugin object; raises whatever the plugin raises.
    """

    module: str
    load: Callable[[], object] = field(eq=False, repr=False)


def normalise(distribution: str) -> str:
    """A distribution's name in the normalised spelling of PEP 503, for comparisons."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def candidates(project: str, group: str, extra: Sequence[str]) -> list[Candidate]:
    """All plugins that can be found, sorted by identity.

    Args:
        project: pluggy's project name.
        group: name of the entry-point group.
        extra: module names, and paths of `.py` files, of further plugins.
    """
    found = [*_installed(group), *(_local(project, value) for value in extra)]
    return sorted(found, key=lambda candidate: (candidate.identity, candidate.value))


def _installed(group: str) -> Iterator[Candidate]:
    # Distributions are read one by one, because importlib.metadata.entry_points() fails altogether if a single file is
    # malformed. The import stands here because it takes longer than the rest of this package.
    from importlib.metadata import distributions

    seen: set[str] = set()
    for distribution in distributions():
        name = "unnamed"
        try:
            if group not in (distribution.read_text(_ENTRY_POINTS) or ""):
                continue  # most distributions have no plugins, and parsing all metadata would be slow
            name = distribution.metadata["Name"]
            if normalise(name) in seen:
                continue
            seen.add(normalise(name))
            chosen = _first_on_path(distribution, name)
            entries = chosen.entry_points.select(group=group)
            yield from [_entry_point(name, chosen.version or "", entry) for entry in entries]
        except Exception as error:
            yield _broken(name, _ENTRY_POINTS, str(distribution.locate_file("")), error)


def _first_on_path(distribution: Distribution, name: str) -> Distribution:
    """The version of a distribution that an import would use if several lie on the path."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as lookup

    try:
        return lookup(name)
    except PackageNotFoundError:  # the folder's name differs from the distribution's name in its metadata
        return distribution


def _entry_point(distribution: str, version: str, entry: EntryPoint) -> Candidate:
    match = _VALUE.fullmatch(entry.value)
    if match is None:
        error = ValueError(f"the entry point's value {entry.value!r} is neither 'module' nor 'module:attribute'")
        return _broken(distribution, entry.name, entry.value, error, version)
    identity = f"{distribution}:{entry.name}"
    return Candidate(identity, entry.name, distribution, version, entry.value, match["module"], entry.load)


def _broken(distribution: str, name: str, value: str, error: Exception, version: str = "") -> Candidate:
    """A plugin whose entry point cannot be used; loading it raises `error`."""

    def load() -> object:
        raise error

    return Candidate(f"{distribution}:{name}", name, distribution, version, value, "", load)


def _local(project: str, value: str) -> Candidate:
    if os.sep not in value and not value.endswith(".py"):
        return Candidate(f"{LOCAL}:{value}", value, LOCAL, "", value, value, lambda: importlib.import_module(value))
    path = Path(value).expanduser().resolve()
    # The module gets a prefix, because a plugin file named like a library must not replace that library.
    module = f"_{project}_local_{path.stem}"
    return Candidate(f"{LOCAL}:{path.stem}", path.stem, LOCAL, "", value, module, lambda: _run_file(module, path))


def _run_file(name: str, path: Path) -> object:
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known  # running the file again would create its classes a second time
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # The module is registered before its code runs, since string annotations look up a class's module by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
