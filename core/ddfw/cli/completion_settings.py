"""Words for `--set`: the dotted keys of a configuration, and the values that each can take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ddfw.cli.completion_words import chosen_names
from ddfw.config.load import settings_tables
from ddfw.kinds import KINDS

if TYPE_CHECKING:
    from ddfw.config.listing import Listing

#: The recipe below all others, by which components are chosen that nothing else names.
_LOWEST = "default"


def setting_words(installed: Listing, params: Mapping[str, Any], word: str) -> Iterator[tuple[str, str]]:
    """Whole words `table.key=` or `table.key=value` that a word may become, each with a summary.

    Args:
        installed: what is installed.
        params: the parameters of the command line so far.
        word: what was typed after `--set`.
    """
    path, equals, _ = word.partition("=")
    table, dot, key = path.partition(".")
    if equals:
        option = _options(installed, params, table).get(key) if dot else None
        values = _names(installed, table) if key in ("", "name") else _values(option or {})
        yield from ((f"{path}={value}", text) for value, text in values)
    elif dot:
        if table in _KIND_IDS:
            yield f"{table}.name=", "which component"
        for name, option in _options(installed, params, table).items():
            yield f"{table}.{name}=", str(option["help"])
    else:
        for name in (*_KIND_IDS, *settings_tables()):
            if name != "observer":
                yield f"{name}.", ""


_KIND_IDS = tuple(kind.id for kind in KINDS)


def _options(installed: Listing, params: Mapping[str, Any], table: str) -> dict[str, Mapping[str, Any]]:
    """The options of a table by name; of the component that is chosen, or of all that could be."""
    from ddfw_registry import options

    if table not in _KIND_IDS:
        cls = settings_tables().get(table)
        return {} if cls is None else {option.name: option.as_dict() for option in options(cls)}
    offers = installed.components(table).entries
    named = installed.recipes
    recipe = named.get(params.get("recipe") or "")
    lowest = named[_LOWEST].chooses if _LOWEST in named else {}
    layers = [lowest, recipe.chooses if recipe else {}, chosen_names(params)]
    name = next((layer[table] for layer in reversed(layers) if table in layer), "")
    items = [offers[name].item] if name in offers else [offer.item for offer in offers.values()]
    return {option["name"]: option for item in items for option in item.options}


def _names(installed: Listing, table: str) -> Iterator[tuple[str, str]]:
    if table in _KIND_IDS:
        for name, offer in installed.components(table).entries.items():
            yield name, offer.item.summary


def _values(option: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The choices of an option, and its default."""
    found: dict[str, str] = {}
    kind, default = str(option.get("type", "")), option.get("default")
    if match := re.search(r"one of (.+)", kind):
        found.update(dict.fromkeys(re.split(r", | or ", match[1]), ""))
    elif kind == "true/false":
        found.update({"true": "", "false": ""})
    elif " or " in kind:
        found.update((word, "") for word in re.split(r", | or ", kind) if word not in _TYPE_WORDS and " " not in word)
    if default is not None and not isinstance(default, list | dict):
        text = str(default).lower() if isinstance(default, bool) else str(default)
        if text:
            found[text] = "the default"
    yield from found.items()


#: Types in the words of an option's table, which are no values.
_TYPE_WORDS = ("integer", "float", "text", "true/false", "path", "number")
