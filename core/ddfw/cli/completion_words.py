"""What the shell offers after `<TAB>`: functions for `shell_complete=` of click's options and arguments.

They never load torch, raise nothing and print nothing; where nothing is known they offer nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ddfw.kinds import KINDS

if TYPE_CHECKING:
    from ddfw.config.listing import Listing

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
#: How long a plugin may keep the shell waiting, in seconds, the first time that something is completed.
_LIMIT_S = 10.0


def completer(words: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> Completer:
    """A function for `shell_complete=` from one that yields words, each with a summary; faults become silence.

    Args:
        words: gets the context of the command line so far and the word to complete, and returns pairs of a whole word
            and its summary; those that do not start with the given word are left out.
    """

    @wraps(words)
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = [(word, text) for word, text in words(context, incomplete) if word.startswith(incomplete)]
        except Exception:  # a shell's line must not be torn apart by a message
            return []
        return [CompletionItem(word, help=text or None) for word, text in found]

    return complete


def _installed() -> Listing:
    from ddfw.config.listing import listing

    return listing(_LIMIT_S)


def _components(kind: str) -> Iterator[tuple[str, str]]:
    for name, offer in _installed().components(kind).entries.items():
        yield name, offer.item.summary


def complete_components(kind: str) -> Completer:
    """Completes names of components of a kind.

    Args:
        kind: its id, such as `param`.
    """

    @completer
    def complete(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
        """Completes names of components of one kind."""
        return _components(kind)

    return complete


def _kinds() -> list[tuple[str, str]]:
    from ddfw.cli.words import EXTENSIONS

    return [*((kind.id, kind.title) for kind in KINDS), *((word, "") for word in EXTENSIONS)]


@completer
def complete_kinds(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Completes the kinds of `ddfw list`."""
    return _kinds()


@completer
def complete_kinds_and_names(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completes the kinds, and the names of all components."""
    yield from _kinds()
    for kind in KINDS:
        yield from _components(kind.id)


@completer
def complete_described(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Completes names of components of the kind that the parameter `kind` holds."""
    kind = context.params.get("kind")
    return _components(kind) if kind in [k.id for k in KINDS] else ()


@completer
def complete_recipes(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completes names of recipes."""
    for recipe in _installed().recipes.values():
        yield recipe.name, recipe.summary


@completer
def complete_formats(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completes names of formats that can be written."""
    for name, offer in _installed().formats.entries.items():
        if offer.item.writer:
            yield name, offer.item.summary


@completer
def complete_stores(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completes names of expert stores in the folder of `--experts-dir`."""
    root = context.params.get("experts_dir") or Path("experts")
    for index in sorted(Path(root).glob("*/index.json")):
        yield index.parent.name, ""


@completer
def complete_comparisons(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completes names of comparisons that plugins ship."""
    for offer in _installed().recipe_folders.entries.values():
        for file in sorted(offer.item.path.glob("comparisons/*.toml")):
            yield file.stem, ""


#: The names of `eval.baselines`, written out here because their own module loads torch.
BASELINE_WORDS = (
    "random_real",
    "random_real_teacher",
    "random_real_count",
    "random_real_teacher_count",
    "kmeans_real",
    "kmeans_real_teacher",
    "herding_real",
    "herding_real_teacher",
    "kmeans_pixels",
    "herding_pixels",
    "full_data",
)


@completer
def complete_baselines(context: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Completes names of baselines."""
    return [(word, "") for word in BASELINE_WORDS]


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file() and (folder / "manifest.json").is_file()


def _run_folders(incomplete: str) -> Iterator[Path]:
    """Runs below `runs` and beside the word that is typed, runs of a `--seeds` folder among them."""
    typed = incomplete.rpartition("/")[0]
    roots = [Path(typed or "/")] if "/" in incomplete else [Path("runs"), Path()]
    for root in (Path(str(r)).expanduser() if str(r).startswith("~") else r for r in roots):
        for pattern in ("*/config.toml", "*/*/config.toml"):
            yield from (config.parent for config in sorted(root.glob(pattern)) if _is_run(config.parent))


def _runs(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    given = {str(value) for value in context.params.values() if isinstance(value, str | Path)}
    found = dict.fromkeys(str(folder) for folder in _run_folders(incomplete))
    typed = incomplete.startswith("./")
    for path in found:
        if path not in given:
            yield (f"./{path}" if typed and not path.startswith("/") else path), ""


_named_runs = completer(_runs)


def complete_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes directories of runs; folders where no run is near."""
    return _named_runs(context, parameter, incomplete) or [CompletionItem(incomplete, type="dir")]


def complete_subjects(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes what `ddfw eval` takes: runs, files of other programs, and the words for real images."""
    words = complete_baselines(context, parameter, incomplete) if incomplete else []
    return words or _named_runs(context, parameter, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_likes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes runs and recipes, and files of settings."""
    found = [f(context, parameter, incomplete) for f in (_named_runs, complete_recipes)]
    return [item for items in found for item in items] or [CompletionItem(incomplete, type="file")]


def complete_starts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes what a run can start from: recipes, and files of settings."""
    found = [] if "/" in incomplete else complete_recipes(context, parameter, incomplete)
    return found or [CompletionItem(incomplete, type="file")]


def complete_settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes `table.key=value` for `--set`: first tables and keys, then the values that are known."""
    from ddfw.cli.completion_settings import setting_words

    return completer(lambda inner, word: setting_words(_installed(), inner.params, word))(
        context, parameter, incomplete
    )


def chosen_names(params: Mapping[str, Any]) -> dict[str, str]:
    """The components that a command line names so far, by kind: with flags, or with `--set KIND[.name]=NAME`."""
    ids = [kind.id for kind in KINDS]
    found = {kind: params[kind] for kind in ids if isinstance(params.get(kind), str)}
    for text in params.get("assignments") or ():
        path, _, value = str(text).partition("=")
        table = path.strip().removesuffix(".name")
        if table in ids:
            found[table] = value.strip().strip("\"'")
    return found
