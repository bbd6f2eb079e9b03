"""Writes the pages that are made from the code: components.md, cli.md and hooks.md, and the tables of claims.md.

python docs/generate.py            writes them
python docs/generate.py --check    exits 1 and names the pages that are out of date
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
MADE = "<!-- made by docs/generate.py; edit the docstrings instead -->\n"


def signature(name: str, function: Callable[..., object]) -> str:
    """Name and signature as one would write them."""
    return f"{name}{inspect.signature(function)}".replace("'", "")


def members(cls: type) -> list[str]:
    """A class's options, properties and methods with their docstrings; other attributes stand in the class's own."""
    import attrs

    from ddfw_registry import options

    lines = []
    if attrs.has(cls) and any("help" in field.metadata for field in attrs.fields(cls)):
        for o in options(cls):
            about = ", ".join(part for part in (o.type, f"default {o.default}", o.range) if part)
            lines.append(f"* `{o.name}` ({about}): {o.help}")
        lines.append("")
    for name, member in vars(cls).items():
        function = member
        if isinstance(member, property):
            function = member.fget
        elif isinstance(member, functools.cached_property):
            function = member.func
        elif isinstance(member, classmethod | staticmethod):
            function = member.__func__
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        shown = signature(name, function)
        if isinstance(member, property | functools.cached_property):
            shown = shown.replace("(self) ->", ":")
        must = "*(required)* " if name in getattr(cls, "__abstractmethods__", ()) and inspect.isabstract(cls) else ""
        lines += ["```python", shown, "```", "", f"{must}{inspect.getdoc(function) or ''}", ""]
    return lines


def components() -> str:
    """Every built-in component with its options."""
    from ddfw.config.catalog import catalog
    from ddfw.kinds import KINDS
    from ddfw_registry import options

    lines = [
        MADE,
        "# Components",
        "",
        "What `pip install ddfw` brings. `ddfw list` shows these and what other plugins add.",
        "",
    ]
    for kind in KINDS:
        lines += [f"## {kind.id}: {kind.title}", ""]
        for entry in catalog().entries(kind.id):
            if entry.distribution != "ddfw":
                continue
            module = inspect.getdoc(inspect.getmodule(entry.cls)) or ""
            lines += [f"### `{entry.name}`", "", inspect.getdoc(entry.cls) or "", ""]
            about = "\n\n".join(p for p in module.split("\n\n")[1:] if not p.lstrip().startswith("Shapes:"))
            if about:
                lines += [about, ""]
            table = options(entry.cls)
            if table:
                lines += ["| option | type | default | range | |", "|---|---|---|---|---|"]
                for o in table:
                    default = "required" if o.required else "–" if o.default is None else f"`{o.default}`"
                    cells = (f"`{o.name}`", o.type, default, o.range, o.help)
                    lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
                lines.append("")
            citation = getattr(entry.cls, "citation", "")
            if citation:
                lines += ["```bibtex", citation, "```", ""]
    return "\n".join(lines)


def cli() -> str:
    """Every help page."""
    import click
    from click.testing import CliRunner

    from ddfw.cli.main import cli as group

    lines = [MADE, "# Command line", ""]

    def page(command: click.Command, names: list[str]) -> None:
        # As a user would see it, at a width of 100.
        shown = CliRunner().invoke(
            group, [*names, "--help"], prog_name="ddfw", terminal_width=100, max_content_width=100
        )
        lines.extend([f"## {' '.join(['ddfw', *names])}", "", "```text", shown.output.rstrip(), "```", ""])
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                if (found := command.get_command(context, name)) is not None:
                    page(found, [*names, name])

    page(group, [])
    return "\n".join(lines)


def hooks() -> str:
    """Every hook with its signature, and the contract behind it."""
    import importlib

    from ddfw import HOOK_API, hookspecs
    from ddfw.contracts.command import Command
    from ddfw.contracts.format import Format
    from ddfw.kinds import KINDS

    lines = [
        MADE,
        "# Hooks and contracts",
        "",
        f"HOOK_API = {HOOK_API}. A plugin is a module (or class) with functions marked `@ddfw.hookimpl`, named in the",
        "entry-point group `ddfw.plugins`. Each hook returns classes; a class is its own configuration: its attrs",
        "fields are the options, its methods the behaviour. See [Writing plugins](plugins.md).",
        "",
    ]
    # What a component may be able to do beside its contract.
    more = {"executor": ("ddfw.contracts.evaluation",)}
    for kind in KINDS:
        hook = getattr(hookspecs, kind.hook)
        module, _, name = kind.base.partition(":")
        base = getattr(importlib.import_module(module), name)
        lines += [f"## {kind.id}: {kind.title}", "", "```python", signature(kind.hook, hook), "```", ""]
        lines += [inspect.getdoc(hook) or "", "", f"**`{module}.{name}`** – {inspect.getdoc(base)}", ""]
        lines += members(base)
        for place in (module, *more.get(kind.id, ())):
            for word, record in vars(importlib.import_module(place)).items():
                if inspect.isclass(record) and record.__module__ == place and record is not base and word[0] != "_":
                    lines += [f"**`{place}.{word}`** – {inspect.getdoc(record)}", "", *members(record)]
    lines += ["## Beside components: commands, formats, recipes", ""]
    components = {kind.hook for kind in KINDS}
    for name, hook in vars(hookspecs).items():
        if name.startswith("ddfw_") and name not in components:
            lines += ["```python", signature(name, hook), "```", "", inspect.getdoc(hook) or "", ""]
    for record in (Command, Format):
        lines += [f"**`ddfw.{record.__name__}`** – {inspect.getdoc(record)}", ""]
    return "\n".join(lines)


#: A table of claims.md: `<!-- rows STUDY: NAME NAME -->` (or went, answers), the table, `<!-- end -->`.
TABLE = re.compile(r"(<!-- (rows|went|answers) ([\w.-]+):([\w. -]*) -->\n)(?:.*?)(<!-- end -->)", re.DOTALL)


def claims() -> str:
    """The page of claims, its tables made from the comparison.json of each study in claims/."""
    from ddfw_plugins.commands.compare.tables import some

    def table(found: re.Match[str]) -> str:
        begin, kind, study, names, end = found.groups()
        record = json.loads((HERE / "claims" / f"{study}.json").read_text(encoding="utf-8"))
        return f"{begin}\n{some(record, kind, names.split())}\n{end}"

    return TABLE.sub(table, (HERE / "claims.md").read_text(encoding="utf-8"))


PAGES = {"components.md": components, "cli.md": cli, "hooks.md": hooks, "claims.md": claims}


def main() -> int:
    """Writes or checks all pages."""
    stale = []
    for name, make in PAGES.items():
        text = make().rstrip() + "\n"
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python docs/generate.py\n")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
