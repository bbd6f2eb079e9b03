"""What is installed, answered without loading torch or any plugin: from a file that a child process filled.

`ddfw list`, `describe`, `plugins`, the list of recipes and shell completion read this; runs use the live catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, field, frozen

from ddfw.config.listing_file import read_record, stored_record
from ddfw.contracts.command import Command
from ddfw.contracts.format import Format
from ddfw.errors import PluginError
from ddfw.kinds import KINDS
from ddfw_registry import Offer, Offers, PluginFailure

ItemT = TypeVar("ItemT")


@frozen(kw_only=True)
class ListedPlugin:
    """An installed plugin.

    Args:
        identity: `distribution:entry-point`.
        name: the entry point, or the module.
        distribution: name of its distribution; `local` for one that DDFW_PLUGINS names.
        version: version of the distribution.
        value: what the entry point says: `module:attribute`, or a path.
        status: `ok`, `failed` or `disabled`. One that offers something that cannot be used has failed, too.
        error: what failed, "" otherwise.
        stage: where it failed: `load`, `register`, `hook` or `component`; "" otherwise.
    """

    identity: str
    name: str
    distribution: str
    version: str
    value: str
    status: str
    error: str
    stage: str = field(repr=False)


@frozen(kw_only=True)
class ListedComponent:
    """A component as `ddfw describe` shows it.

    Args:
        name: the word that users type.
        summary: first line of its docstring.
        description: the whole docstring.
        options: its options, each a mapping of name, type, required, default, range and help.
        cls: `module.Class`.
        source: path of the file that defines it, "" if there is none.
        citation: BibTeX, "" if there is none.
        problem: why its options cannot be shown, "" if they can.
    """

    name: str
    summary: str
    description: str
    options: Sequence[Mapping[str, Any]]
    cls: str
    source: str
    citation: str
    problem: str


@frozen(kw_only=True)
class ListedRecipe:
    """A recipe without its settings.

    Args:
        name: its file's name without the ending.
        summary: one line about the recipe.
        source: the paper or code that its values come from.
        extends: name of the recipe whose settings lie below, "" for none.
        tuned: whether its settings were tuned for the data, size and method that it selects.
        origin: identity of the plugin that offers it.
        selects: values of data, ipc, param, traj for which it is chosen.
        chooses: the component that it names in each table that has one.
    """

    name: str
    summary: str
    source: str
    extends: str
    tuned: bool
    origin: str
    selects: Mapping[str, Any]
    chooses: Mapping[str, str]


@frozen(kw_only=True)
class ListedFolder:
    """A folder of recipes that a plugin offers.

    Args:
        path: the folder.
        recipes: number of recipes in it.
        comparisons: number of comparisons in it.
    """

    path: Path
    recipes: int
    comparisons: int


class Listing:
    """What the installed plugins offer; each part is read, or asked for, when it is first used.

    Args:
        read: returns the record of a part, `outline` or `components`.
    """

    def __init__(self, read: Callable[[str], Mapping[str, Any]]) -> None:
        self._read = read

    @cached_property
    def _outline(self) -> Mapping[str, Any]:
        return self._read("outline")

    @cached_property
    def _components(self) -> Mapping[str, Any]:
        return self._read("components")

    @cached_property
    def plugins(self) -> tuple[ListedPlugin, ...]:
        """Every plugin that was found, sorted by identity."""
        failures = {failure.identity: failure for failure in reversed(self.failures)}
        found = []
        for plugin in self._outline["plugins"]:
            failure = failures.get(plugin["identity"])
            if failure is not None and plugin["status"] == "ok":
                plugin = {**plugin, "status": "failed", "error": failure.error, "stage": failure.stage}
            found.append(ListedPlugin(**plugin))
        return tuple(sorted(found, key=lambda plugin: plugin.identity))

    @property
    def unknown_disabled(self) -> tuple[str, ...]:
        """Words of DDFW_DISABLE_PLUGINS that name no plugin."""
        return tuple(self._outline["unknown_disabled"])

    @cached_property
    def commands(self) -> Offers[Command]:
        """The commands that plugins offer."""
        return _offers("command", "command", self._outline["command"], lambda item: Command(**item))

    @cached_property
    def formats(self) -> Offers[Format]:
        """The formats of learned sets."""

        def made(item: dict[str, Any]) -> Format:
            return Format(**{**item, **{key: tuple(item[key]) for key in ("patterns", "suffixes")}})

        return _offers("format", "format", self._outline["format"], made)

    @cached_property
    def recipe_folders(self) -> Offers[ListedFolder]:
        """The folders of recipes."""

        def made(item: dict[str, Any]) -> ListedFolder:
            return ListedFolder(**{**item, "path": Path(item["path"])})

        return _offers("recipes", "folder of recipes", self._outline["recipes"], made)

    @cached_property
    def recipes(self) -> Mapping[str, ListedRecipe]:
        """All recipes, by name.

        Raises:
            PluginError: a file is not a valid recipe, or two recipes have the same name or selection.
        """
        if self._outline["recipes_error"]:
            raise PluginError(self._outline["recipes_error"])
        return {recipe["name"]: ListedRecipe(**recipe) for recipe in self._outline["named_recipes"]}

    def components(self, kind: str) -> Offers[ListedComponent]:
        """The components of a kind."""
        return self._kinds[kind]

    @cached_property
    def _kinds(self) -> dict[str, Offers[ListedComponent]]:
        def made(item: dict[str, Any]) -> ListedComponent:
            return ListedComponent(**{("cls" if key == "class" else key): value for key, value in item.items()})

        return {k.id: _offers(k.id, k.title, self._components[f"kind {k.id}"], made) for k in KINDS}

    @cached_property
    def failures(self) -> tuple[PluginFailure, ...]:
        """Everything that does not work: plugins, their components, commands, formats and folders."""
        plugins = [_failure(plugin) for plugin in self._outline["plugins"] if plugin["status"] == "failed"]
        components = [_failure(failure) for failure in self._components["failures"]]
        known = {failure.identity for failure in plugins}
        late = [_failure(row) for row in self._components.get("left_out", ()) if row["identity"] not in known]
        others = (self.commands, self.formats, self.recipe_folders)
        return (*plugins, *late, *components, *(failure for offers in others for failure in offers.failures))


@cache
def listing(limit_s: float | None = None) -> Listing:
    """What is installed now; forgotten when the next command line begins.

    Args:
        limit_s: how long one plugin may take to answer if it has to be asked, in seconds; None for a minute.

    Raises:
        PluginError: nothing is stored, and the plugins cannot be asked.
    """
    return Listing(lambda part: read_record(part, limit_s))


def stored_listing(*parts: str) -> Listing | None:
    """What is installed, if it is known without asking a plugin; None if not.

    Args:
        parts: which parts are needed: `outline`, `components`.
    """
    records = {part: stored_record(part) for part in parts}
    known = {part: record for part, record in records.items() if record is not None}
    return Listing(known.__getitem__) if len(known) == len(parts) else None


def _offers(kind: str, title: str, record: Mapping[str, Any], made: Callable[[dict[str, Any]], ItemT]) -> Offers[ItemT]:
    entries = {}
    for row in record["entries"]:
        owner = (row["plugin"], row["distribution"], row["version"])
        item = row.get("item")
        if item is None:
            item = {key: value for key, value in row.items() if key not in ("plugin", "distribution", "version")}
        entries[row["name"]] = Offer(row["name"], made(item), *owner)
    return Offers(
        kind=kind,
        title=title,
        entries=entries,
        duplicates={name: tuple(owners) for name, owners in record["duplicates"].items()},
        failures=tuple(_failure(failure) for failure in record.get("failures", ())),
        disable_variable="DDFW_DISABLE_PLUGINS",
    )


def _failure(row: Mapping[str, Any]) -> PluginFailure:
    keys = ("identity", "name", "distribution", "version", "value", "stage", "error")
    kind: str = row.get("kind", "")
    return evolve(PluginFailure(*(row[key] for key in keys)), kind=kind)
