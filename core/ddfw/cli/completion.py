"""`ddfw completion`, and the scripts for the shells; click does the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

SHELLS = ("bash", "zsh", "fish")

#: Like click's, but a word that ends with . = or / is followed by no space, since it goes on.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete $1 2>/dev/null)
    for completion in $response; do
        IFS=',' read type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
            if [[ $value == *[=./] ]]; then compopt -o nospace; fi
        fi
    done
    return 0
}

%(complete_func)s_setup() {
    complete -o nosort -F %(complete_func)s %(prog_name)s
}

%(complete_func)s_setup;
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response words_of_type opened described texts
    local type key text
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete \\
        %(prog_name)s 2>/dev/null)}")
    for type key text in ${response}; do
        if [[ "$type" == "plain" && "$key" == *[=./] ]]; then
            opened+=("$key")
        elif [[ "$type" == "plain" ]]; then
            described+=("$key")
            if [[ "$text" == "_" ]]; then texts+=("$key"); else texts+=("$key  -- $text"); fi
        elif [[ "$type" == "dir" ]]; then
            _path_files -/
        elif [[ "$type" == "file" ]]; then
            _path_files -f
        fi
    done
    if [ -n "$opened" ]; then
        compadd -S '' -Q -a opened
    fi
    if [ -n "$described" ]; then
        compadd -l -d texts -Q -a described
    fi
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class _Bash(BashComplete):
    """bash: it splits words at `=`, which is undone here, and replaces only what follows it."""

    source_template: ClassVar[str] = _BASH

    def source(self) -> str:
        """The script; bash is not started to ask for its version."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        count = int(os.environ["COMP_CWORD"])
        split = split_arg_string(os.environ["COMP_WORDS"])[: count + 1]
        words: list[str] = []
        joined = False
        for number, word in enumerate([*split, *[""] * (count + 1 - len(split))]):
            if number and (word == "=" or joined):
                words[-1] += word
            else:
                words.append(word)
            joined = word == "="
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What can stand at the cursor, without the part before `=` that bash leaves alone."""
        found = super().get_completions(args, incomplete)
        kept = len(incomplete.rpartition("=")[0]) + 1 if "=" in incomplete and incomplete[:1] != "-" else 0
        return [CompletionItem(item.value[kept:], item.type, item.help) if kept else item for item in found]


class _Zsh(ZshComplete):
    """zsh, with no space behind a word that goes on."""

    source_template: ClassVar[str] = _ZSH


for _shell in (_Bash, _Zsh):
    add_completion_class(_shell)

_CLASSES: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": FishComplete}


def completion_script(shell: str) -> str:
    """The script that a shell has to read, so that `<TAB>` completes `ddfw` commands."""
    nothing: Any = None  # the script depends on names only
    return _CLASSES[shell](nothing, {}, "ddfw", "_DDFW_COMPLETE").source()


@click.command("completion")
@click.argument("shell", required=False, type=click.Choice(SHELLS))
@click.option("--install", is_flag=True, help="Write the script to where the shell looks for it.")
def completion_command(shell: str | None, install: bool) -> None:
    """Print or install completion for bash, zsh or fish.

    <TAB> then completes commands, components, recipes, the keys of --set with their values, runs and expert stores.
    SHELL is that of the environment variable SHELL if it is not given.

    \b
    ddfw completion --install           write the script, and say what is left to do
    source <(ddfw completion bash)      for this shell only
    """
    shell = shell or _shell_of_user()
    if not install:
        click.echo(completion_script(shell))
        return
    from ddfw.artifacts.atomic import write_text

    file = _place(shell)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, completion_script(shell))
    click.echo(f"wrote {file}\n{_what_next(shell, file)}")


def _shell_of_user() -> str:
    name = os.path.basename(os.environ.get("SHELL", ""))
    if name in SHELLS:
        return name
    raise click.UsageError(f"the shell {name or '(SHELL is not set)'!r} is not known; name one of {', '.join(SHELLS)}")


def _place(shell: str) -> Path:
    data, config = (
        Path(os.environ.get(variable) or os.path.expanduser(default))
        for variable, default in (("XDG_DATA_HOME", "~/.local/share"), ("XDG_CONFIG_HOME", "~/.config"))
    )
    places = {
        "bash": data / "bash-completion" / "completions" / "ddfw",
        "zsh": data / "zsh" / "site-functions" / "_ddfw",
        "fish": config / "fish" / "completions" / "ddfw.fish",
    }
    return places[shell]


def _what_next(shell: str, file: Path) -> str:
    if shell == "bash":
        return (
            "Open a new shell, and ddfw <TAB> completes. If it does not, the package bash-completion is not installed: "
            f"add this line to ~/.bashrc:\nsource '{file}'"
        )
    if shell == "zsh":
        return (
            f"Add this line to ~/.zshrc, above the line with compinit (or followed by it), and open a new shell:\n"
            f"fpath=('{file.parent}' $fpath); autoload -Uz compinit; compinit"
        )
    return "Open a new shell, and ddfw <TAB> completes."
