"""`ddfw new-plugin`."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import click

import ddfw
from ddfw_plugins.commands.new_plugin.kinds import STARTS, package_files, package_of


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--kind",
    required=True,
    metavar="KIND",
    shell_complete=ddfw.complete_kinds,
    help=f"What it is: {', '.join(STARTS)}.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder to write, which must not exist; the default is NAME."
)
@click.pass_context
def new_plugin_command(context: click.Context, name: str, kind: str, out: Path | None) -> None:
    """Write a small complete package around a component of yours, called NAME: code that works, and its test.

    \b
    ddfw new-plugin power --kind loss
    ddfw new-plugin count-images --kind command --out ~/code/count-images
    """
    if kind not in STARTS:
        hint = ddfw.did_you_mean(kind, STARTS)
        raise click.UsageError(f"unknown kind {kind!r}.{hint} Known: {', '.join(STARTS)}.")
    _require_free(context, kind, name)
    folder = out or Path(name)
    written = package_files(kind, name)
    _write(folder, written)
    ddfw.say(f"{folder}: a plugin of kind {kind}, called {name}")
    for path in written:
        ddfw.say(f"  {path}")
    ddfw.say("", "Next:", "")
    run = STARTS[kind].run.replace("@name@", name)
    for command in (f"cd {folder}", 'pip install -e ".[test]"', "python -m pytest", run):
        ddfw.say(f"  {command}")


def _require_free(context: click.Context, kind: str, name: str) -> None:
    """Refuses a name that cannot be one, or that something has already.

    Raises:
        UsageError: the name is taken, or is not made of lower-case letters, digits, `_` and `-`.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name):
        made = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_0123456789")
        hint = f" Did you mean {made!r}?" if made else ""
        raise click.UsageError(
            f"{name!r} cannot be a name: use a-z 0-9 _ -, a letter first, a letter or digit last.{hint}"
        )
    if (owner := _owner(context, kind, name)) is not None:
        raise click.UsageError(f"there is a {kind} {name!r} already, from {owner}; choose another name")
    package = package_of(name)
    if importlib.util.find_spec(package) is not None:
        raise click.UsageError(f"its package {package} is installed already; choose another name")


def _owner(context: click.Context, kind: str, name: str) -> str | None:
    """Who offers something of this kind and name: the identity of a plugin; None if nobody does."""
    if kind == "recipes":
        return "an installed plugin" if name in ddfw.recipes() else None
    if kind == "command":
        root = context.find_root()
        known = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
        return ddfw.owner_of(kind, name) or ("ddfw" if name in known else None)
    return ddfw.owner_of(kind, name)


def _write(folder: Path, written: dict[str, str]) -> None:
    """Writes a folder of text files, which appears whole or not at all.

    Raises:
        DirectoryInUseError: the folder exists.
    """
    if folder.exists() or folder.is_symlink():
        raise ddfw.DirectoryInUseError(f"{folder} exists already; choose another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    ddfw.tidy(folder.parent, target=folder.name)
    made = ddfw.temporary_beside(folder)
    try:
        made.mkdir()
        for path, text in written.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
