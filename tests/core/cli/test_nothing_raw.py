"""Nothing from outside reaches a terminal raw: names, cards, paths, settings and errors are shown, never obeyed."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from ddfw.cli.output import console
from ddfw.pipeline.report.markup import code_text, text
from ddfw.plain import message_line, printable, printable_json, printable_lines

SOURCES = Path(__file__).resolve().parents[3]
#: A title for the window, a colour, a line that is overwritten, a forged line, bidi marks, separators, a C1 sequence.
HOSTILE = (
    "a\x1b]0;title\x07\x1b[31m\rover\nerror: forged\u202e\u2066\u200f\u061c\u2028\u2029\x85\x9b2J\u200b\ufeff\x7fz"
)
NASTY = [
    *map(chr, (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F))),
    *map(chr, (*range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFF9, 0xE0001, 0xE0041, 0xE0100, 0xE000, 0x110BD)),
]
CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(shown: str) -> str:
    """Checks that a terminal only shows the text, whose lines end in ordinary line breaks; returns it."""
    raw = [c for c in shown if c != "\n" and unicodedata.category(c) in CATEGORIES]
    assert raw == [], ascii(shown)
    return shown


@pytest.mark.parametrize("character", NASTY, ids=lambda c: f"U+{ord(c):04X}")
def test_no_character_that_hides_moves_or_reorders_stays(character):
    """Broken: one of these would act on a terminal, in a message, a table, JSON or on the page."""
    word = f"a{character}b"
    for shown in (printable(word), message_line(word), text(word)):
        assert character not in shown and shown.isprintable() and shown[0] + shown[-1] == "ab"
    for shown in (printable_lines(word), code_text(word)):
        assert character in "\n\t" or character not in shown
    held = {word: [word]}
    shown = printable_json(held)
    assert character not in shown and json.loads(shown) == held and plain(shown)


def test_ordinary_text_stays_as_it_is():
    """Broken: names in other scripts, accents, quotes and emoji would be spoilt."""
    for word in ("", "été", "日本語", "العربية", "a b", "👍🏽", "x\u00a0y", "a\\b", 'l\'été "x"', "❤️"):
        assert printable(word) == message_line(word) == printable_lines(word) == word
        assert printable_json({"x": word}) == json.dumps({"x": word}, ensure_ascii=False)


def test_long_values_are_cut_and_a_message_keeps_its_beginning_and_its_end():
    """Broken: a name of 5,000 characters or a value of a million would fill the screen, or hide the way out."""
    assert len(printable("x" * 5000)) == len(printable("\x1b" * 5000)) == 400
    shown = message_line(f"class {'y' * 10**6} is unknown; choose another")
    assert len(shown) < 500 and shown.startswith("class yy") and shown.endswith("is unknown; choose another")
    assert len(message_line("word " * 10**5)) == 1000 and len(message_line("\x1b[31m" * 10**5)) <= 1000


def test_values_that_cannot_be_turned_into_text_are_named():
    """Broken: an error's own text would raise an error."""

    class Broken(Exception):
        def __str__(self):
            raise ValueError

    assert "Broken" in message_line(Broken())
    assert "int" in printable(10**5000)


def test_a_console_of_ours_obeys_its_styles_and_nothing_else(capsys, monkeypatch):
    """Broken: a cell of a table could carry a command, or tables would lose their own styles."""
    from rich.table import Table
    from rich.text import Text

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    grid = Table("a")
    grid.add_row(Text(HOSTILE, style="bold"))
    screen = console(width=200)
    screen.print(grid)
    screen.print(HOSTILE, markup=False, highlight=False, style="bold")
    out = capsys.readouterr().out
    assert "\x1b[1m" in out and "\x1b[31m" not in out and "\\u001b[31m" in out
    plain(re.sub(r"\x1b\[[0-9;]*m", "", out))


def test_only_one_module_prints():
    """Broken: a command would print past the place where characters are made safe."""
    allowed = {
        ("core/ddfw/cli/output.py", "echo"): "the place",
        ("core/ddfw/cli/main.py", "echo"): "the head of an error, in red; its text is made safe",
        ("core/ddfw/cli/completion.py", "echo"): "our own script for a shell, with tabs",
    }
    found = set()
    for folder in ("core", "plugins", "registry"):
        for path in (SOURCES / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    if name in ("echo", "secho", "print", "Console") and not _of_ours(node.func):
                        found.add((str(path.relative_to(SOURCES)), name))
    assert found == set(allowed)


def _of_ours(called: ast.expr) -> bool:
    """Whether a call is a method of a console of ours: `screen.print`, `self._bars.console.print`."""
    if not isinstance(called, ast.Attribute) or called.attr != "print":
        return False
    owner = called.value.func if isinstance(called.value, ast.Call) else called.value
    return getattr(owner, "id", getattr(owner, "attr", "")) in ("screen", "console")


@pytest.mark.parametrize(
    "words",
    [
        ("list", HOSTILE),
        ("describe", HOSTILE),
        (HOSTILE,),
        ("run", f"--{HOSTILE}"),
        ("run", HOSTILE),
        ("run", "--set", HOSTILE),
        ("run", "--set", f"outer.{HOSTILE}=1"),
        ("run", "--set", f"outer.steps={HOSTILE}"),
        ("run", "--ipc", HOSTILE),
        ("run", "--seeds", HOSTILE),
        ("run", "--param", HOSTILE),
        ("run", "--plugin", HOSTILE, "default"),
        ("run", "--max-time", HOSTILE),
        ("run", "--init-from", HOSTILE, "--dry-run"),
        ("run", "--print-config", "--set", f"data.path={HOSTILE}", "--data", "npz"),
        ("eval", HOSTILE),
        ("eval", "random_real", "--data", "imagefolder", "--set", f"data.path={HOSTILE}"),
        ("eval", "random_real", "--like", HOSTILE),
        ("runs", HOSTILE),
        ("show", HOSTILE),
        ("diff", HOSTILE, HOSTILE),
        ("report", HOSTILE),
        ("export", HOSTILE, "--format", HOSTILE, "--out", "x"),
        ("extend", HOSTILE, "--steps", "5"),
        ("experts", "show", HOSTILE),
        ("recipes", "show", HOSTILE),
        ("sweep", HOSTILE),
        ("compare", HOSTILE),
        ("new-plugin", "loss", HOSTILE),
    ],
    ids=lambda words: " ".join(w if w.isprintable() else "…" for w in words),
)
def test_words_of_the_command_line_come_back_as_plain_text(ddfw, here, words):
    """Broken: who pastes a command could get an error that moves the cursor, or forges a line of ours."""
    said = ddfw(*words)
    plain(said.err + said.out)
    assert len(said.err.splitlines()) <= 6 and "Traceback" not in said.err and said.code != 70, said.err
    assert not any(line.startswith("error: forged") for line in said.err.splitlines())
    long = ddfw(*(w.replace(HOSTILE, "n" * 5000) for w in words))
    assert len(long.err) < 6 * 1000 and long.code != 70, long.err


BAD_PLUGIN = f"""
raise RuntimeError({HOSTILE * 40!r})
"""
COMMAND = f"""
import click
import ddfw

@click.command()
def cli():
    raise ddfw.DataError({HOSTILE!r})

@click.command()
def bug():
    raise RuntimeError({HOSTILE!r} * 1000)

@ddfw.hookimpl
def ddfw_register_commands():
    return [
        ddfw.Command(name="hostile", summary={HOSTILE!r}, target="__TARGET__:cli"),
        ddfw.Command(name="bug", summary="x", target="__TARGET__:bug"),
    ]
"""


def test_errors_and_words_of_plugins_are_plain_text(ddfw, here, monkeypatch):
    """Broken: a plugin's exception or summary could act on the terminal of whoever lists plugins."""
    (here / "bad.py").write_text(BAD_PLUGIN)
    (here / "words_of_mine.py").write_text(COMMAND.replace("__TARGET__", "words_of_mine"))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("DDFW_PLUGINS", f"{here / 'bad.py'},words_of_mine")
    monkeypatch.setenv("DDFW_DISABLE_PLUGINS", HOSTILE.replace(",", ""))
    for words in (("plugins",), ("plugins", "--json"), ("list",), ("list", "--json"), ("list", "command"), ("--help",)):
        said = ddfw(*words)
        assert said.code == 0, said.err
        plain(said.out + said.err)
        assert all(len(line) <= 1000 for line in said.err.splitlines())
    assert "bad" in ddfw("plugins").out and "RuntimeError" in ddfw("plugins").out
    said = ddfw("hostile")
    assert said.code == 4 and len(plain(said.err).splitlines()) == 1
    said = ddfw("bug")
    assert said.code in (3, 70) and len(plain(said.err)) < 2000 and len(said.err.splitlines()) == 2


def test_settings_of_a_file_and_its_name_are_plain_text(ddfw, here):
    """Broken: a downloaded recipe could act on the terminal, by its keys, values or name."""
    key = json.dumps(HOSTILE)
    name = "a\x1b[31m\u202e.toml"
    (here / name).write_text(
        f"[run]\nrecipe = {key}\n[outer]\nsteps = {key}\n{key} = 1\n[param]\nname = {key}\n[{key}]\nx = 1\n".replace(
            "\x7f", "\\u007f"
        )
    )
    said = ddfw("run", name)
    assert said.code == 2 and len(said.err.splitlines()) <= 6
    plain(said.err)
    (here / name).write_bytes(b"\x1b]0;x\x07 = ")
    said = ddfw("run", name)
    assert said.code == 2 and "not a readable TOML file" in plain(said.err)


def test_names_on_the_card_of_a_set_are_plain_text(ddfw, here, finished):
    """Broken: a stranger's set could act on the terminal of whoever looks at it or evaluates it."""
    import shutil

    from ddfw.artifacts.synthetic import sealed_card

    shutil.copytree(finished.out, here / "runs" / "mine")
    place = here / "runs" / "mine" / "synthetic" / "card.json"
    card = {k: v for k, v in json.loads(place.read_text()).items() if k != "card_sha256"}
    hostile = [f"{number}{HOSTILE}" for number in range(9)] + ["n" * 5000]
    held = json.dumps(card)
    names = next(value for value in _lists(card) if isinstance(value, list) and len(value) == 10)
    place.write_text(json.dumps(sealed_card(json.loads(held.replace(json.dumps(names), json.dumps(hostile))))))
    for words in (
        ("show", "runs/mine"),
        ("show", "runs/mine", "--json"),
        ("show", "runs/mine", "--class", "99"),
        ("runs",),
        ("eval", "runs/mine", "-q"),
        ("export", "runs/mine", "--format", "npz", "--out", "x"),
        ("report", "runs/mine"),
    ):
        said = ddfw(*words)
        plain(said.out + said.err)
        assert said.code != 70 and "Traceback" not in said.err, said.err
        if "--json" not in words:
            assert max(map(len, (said.out + said.err).splitlines())) < 6000
    page = here / "runs" / "mine" / "report.html"
    plain(page.read_text(encoding="utf-8"))


def _lists(value):
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _lists(part)


def test_a_path_of_a_run_is_plain_text_in_tables_and_events(ddfw, here, finished, streamed):
    """Broken: a folder's name could act on the terminal of whoever lists runs."""
    import shutil

    name = HOSTILE.replace("/", "")
    shutil.copytree(finished.out, here / "runs" / name)
    for words in (("runs",), ("runs", "--json"), ("show", f"runs/{name}"), ("report", f"runs/{name}")):
        said = ddfw(*words)
        assert said.code == 0, said.err
        plain(said.out + said.err)
    assert len(ddfw("runs").out.strip().splitlines()) == 2
    said = ddfw(*finished.arguments[:-4], "--out", f"runs/{name}", "--experts-dir", finished.experts, "--json")
    assert said.code == 0 and plain(said.out + said.err)
    assert said.events[-1]["directory"] == f"runs/{name}"


@pytest.mark.extended
def test_on_a_real_terminal_only_our_own_styles_are_sent(here):
    """Broken: what is safe in a pipe would not be so where it matters."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "ddfw", "run", "--param", HOSTILE],
        stdout=follower,
        stderr=follower,
        cwd=here,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert child.wait() == 2
    said = shown.decode().replace("\r\n", "\n").replace("\x1b[31m\x1b[1merror:\x1b[0m", "error:")
    plain(said)
    assert said.startswith("error:")
