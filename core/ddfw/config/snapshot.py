"""What the installed plugins offer, as values that a JSON file can hold; asked in a process of its own.

Plugins run here: nothing else of ddfw depends on this process, so a plugin may print, end it or never return.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import asdict

from ddfw.config.catalog import catalog, plugins
from ddfw.config.extensions import commands, formats, recipe_folders
from ddfw.config.recipes import recipes
from ddfw.errors import ConfigError, PluginError
from ddfw.kinds import KINDS
from ddfw_registry import Entry, Offer, Offers, PluginFailure, Source, options, watching

OfferedT = TypeVar("OfferedT")
Record = dict[str, Any]

#: Names of folders that hold installed packages.
_INSTALLED = {"site-packages", "dist-packages"}


def outline_record() -> Record:
    """The plugins, and what they offer beside components: commands, formats and recipes; no torch is loaded."""
    found = plugins()
    return {
        "plugins": [
            *({**_source(p), "status": "ok", "error": "", "stage": ""} for p in found.plugins),
            *({**_source(p), "status": "failed", "error": p.error, "stage": p.stage} for p in found.failures),
            *({**_source(p), "status": "disabled", "error": "", "stage": ""} for p in found.disabled),
        ],
        "unknown_disabled": list(found.unknown_disabled),
        "command": _offers(commands(), asdict),
        "format": _offers(formats(), asdict),
        "recipes": _offers(recipe_folders(), _folder),
        **_recipes(),
    }


def components_record(begun: Callable[[str], None] = lambda identity: None) -> Record:
    """The components of every kind, each as `ddfw describe` shows it.

    Args:
        begun: called with a plugin's identity before its component is described.
    """
    found = catalog()
    record: Record = {}
    for kind in KINDS:
        entries = found.entries(kind.id)
        rows = []
        for entry in entries:
            begun(entry.plugin)
            rows.append(_described(entry))
        record[f"kind {kind.id}"] = {
            "entries": rows,
            "duplicates": {name: list(owners) for name, owners in found.duplicates(kind.id).items()},
        }
    known = {id(failure) for failure in plugins().failures}
    record["failures"] = [_failure(failure) for failure in found.failures if id(failure) not in known]
    sources = {plugin.identity: plugin for plugin in plugins().plugins}
    for kind in KINDS:
        for row in record[f"kind {kind.id}"]["entries"]:
            if row["problem"]:
                error = f"{kind.title} {row['name']}: {row['problem']}"
                failure = {"stage": "component", "error": error, "kind": kind.id}
                record["failures"].append({**_source(sources[row["plugin"]]), **failure})
    return record


def source_files(components: bool) -> set[Path]:
    """The files from which the plugins, their components if these were asked for, and ddfw itself come.

    These are the loaded modules of every package that holds a plugin or a component, and all modules that lie outside
    the standard library and the folders of installed packages.
    """
    names = [p.value.partition(":")[0] for p in plugins().plugins]
    if components:
        names += [entry.cls.__module__ for kind in KINDS for entry in catalog().entries(kind.id)]
    packages = {"ddfw", "ddfw_registry", *(name.partition(".")[0] for name in names)}
    standard = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
    files = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file):
            continue
        library = file.startswith(standard) or not _INSTALLED.isdisjoint(Path(file).parts)
        if (name.partition(".")[0] in packages) or not library:
            files.add(Path(file))
    return files


def recipe_files() -> set[Path]:
    """The folders of recipes with every file in them."""
    folders = [offer.item for offer in recipe_folders().entries.values()]
    inside = [path for folder in folders for pattern in ("*.toml", "comparisons") for path in folder.glob(pattern)]
    return {*folders, *inside}


def write_answer(part: str, result: Path, progress: Path) -> None:
    """Asks every plugin, writes what was found to a file, and ends the process.

    Args:
        part: `outline`; or `components` or `met`, each with the outline.
        result: the JSON file to write: `outline`, the other part, `files` and the time `began` in ns.
        progress: a file that holds the identity of the plugin whose code runs, "" for none.
    """
    began = time.time_ns()
    with contextlib.suppress(ImportError):
        if part == "components":
            import torch  # noqa: F401  # here, so that no plugin is blamed for the seconds that this takes

    def begun(identity: str) -> None:
        progress.write_text(identity, encoding="utf-8")

    with watching(begun):
        parts = {"outline": outline_record()}
        if part == "components":
            parts[part] = components_record(begun)
        elif part == "met":
            parts[part] = _meet(begun)
    files = recipe_files() | source_files(part == "components")
    record = {**parts, "files": sorted(str(path) for path in files), "began": began}
    temporary = result.with_suffix(".part")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(result)
    os._exit(0)  # what plugins have registered for the end, or their threads, could wait for ever


def _meet(begun: Callable[[str], None]) -> Record:
    """Calls every hook of plugins of third parties, so that one that never returns shows; the answers are not kept."""
    third = {plugin.identity for plugin in plugins().plugins if plugin.distribution != "ddfw"}
    for kind in KINDS:
        for implementation in getattr(plugins().manager.hook, kind.hook).get_hookimpls():
            if implementation.plugin_name in third:
                begun(implementation.plugin_name)
                with contextlib.suppress(BaseException):  # this shows where the answer is asked for
                    list(implementation.function())
    return {}


def _source(plugin: Source) -> Record:
    return dict(zip(("identity", "name", "distribution", "version", "value"), plugin.place, strict=True))


def _failure(failure: PluginFailure) -> Record:
    return {**_source(failure), "stage": failure.stage, "error": failure.error, "kind": failure.kind}


def _offers(offers: Offers[OfferedT], item: Callable[[OfferedT], Record]) -> Record:
    return {
        "entries": [{**_offered(name, offer), "item": item(offer.item)} for name, offer in offers.entries.items()],
        "duplicates": {name: list(owners) for name, owners in offers.duplicates.items()},
        "failures": [_failure(failure) for failure in offers.failures],
    }


def _offered(name: str, offer: Offer[Any]) -> Record:
    return {"name": name, "plugin": offer.plugin, "distribution": offer.distribution, "version": offer.version}


def _folder(path: Path) -> Record:
    return {"path": str(path), **{key: _count(path.glob(pattern)) for key, pattern in _COUNTED.items()}}


_COUNTED = {"recipes": "*.toml", "comparisons": "comparisons/*.toml"}


def _count(items: Iterable[object]) -> int:
    return sum(1 for _ in items)


def _recipes() -> Record:
    try:
        found = recipes()
    except PluginError as error:
        return {"named_recipes": [], "recipes_error": str(error)}
    rows = [
        {
            **{key: getattr(recipe, key) for key in ("name", "summary", "source", "extends", "tuned", "origin")},
            "selects": dict(recipe.selects),
            "chooses": {table: value["name"] for table, value in recipe.tables.items() if _names(value)},
        }
        for recipe in found.values()
    ]
    return {"named_recipes": rows, "recipes_error": ""}


def _names(table: object) -> bool:
    return isinstance(table, Mapping) and isinstance(table.get("name"), str)


def _described(entry: Entry) -> Record:
    """A component with everything that `ddfw describe` shows."""
    facts: Record = {
        "name": entry.name,
        "summary": entry.summary,
        "description": inspect.getdoc(entry.cls) or "",
        "options": [],
        "class": f"{entry.cls.__module__}.{entry.cls.__qualname__}",
        "source": "",
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "citation": str(getattr(entry.cls, "citation", "")),
        "problem": "",
    }
    with contextlib.suppress(TypeError):
        facts["source"] = inspect.getsourcefile(entry.cls) or ""
    try:
        facts["options"] = [option.as_dict() for option in options(entry.cls)]
    except Exception as error:  # an annotation or a default of a plugin can raise anything
        facts["problem"] = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return facts
