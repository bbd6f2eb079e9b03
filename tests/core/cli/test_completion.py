"""Completion: the words after `<TAB>` in bash, zsh and fish, and the scripts that ask for them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddfw.cli.completion import SHELLS, completion_script
from ddfw.cli.completion_words import BASELINE_WORDS
from ddfw.config.listing import listing
from ddfw.config.listing_file import forget_records

PROGRAM = (
    "import atexit, sys; atexit.register(lambda: sys.stderr.write('TORCH' if 'torch' in sys.modules else 'LIGHT')); "
    "from ddfw.cli.main import main; main()"
)


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is installed is stored."""
    forget_records()
    listing.cache_clear()
    listing().components("param")


def answer(shell: str, line: str, **environment: str) -> list[str]:
    """The lines that the program gives a shell, the last word of the line being the one at the cursor."""
    words = line.split(" ")
    if shell == "fish":
        asked = {"COMP_WORDS": line.rpartition(" ")[0] + " ", "COMP_CWORD": words[-1]}
    else:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "_DDFW_COMPLETE": f"{shell}_complete", **asked, **environment},
        timeout=60,
    )
    assert done.stderr == "LIGHT", done.stderr
    return done.stdout.splitlines() if done.stdout.strip() else []


def words(shell: str, line: str, **environment: str) -> list[str]:
    """The words alone."""
    lines = answer(shell, line, **environment)
    if shell == "bash":
        return [found.partition(",")[2] for found in lines]
    if shell == "zsh":
        return lines[1::3]
    return [found.partition(",")[2].partition("\t")[0] for found in lines]


CASES = {
    "ddfw run --param ": {"lss", "pixel", "fred", "linba", "multiformation"},
    "ddfw run --param l": {"lss", "linba"},
    "ddfw run --set param.r": {
        f"param.{name}=" for name in ("rank", "rank_h", "rank_w", "rank_channels", "ranks", "rotation")
    },
    "ddfw run --param pixel --set param.l": {"param.lr="},
    "ddfw run --set param=pixel --set param.r": set(),
    "ddfw run --set outer.syn": {"outer.syn_steps="},
    "ddfw run --set ou": {"outer."},
    "ddfw describe param l": {"lss", "linba"},
    "ddfw describe ls": {"lss"},
    "ddfw describe pa": {"param"},
    "ddfw list lab": {"labels"},
    "ddfw recipes show lss-mct-cifar100": {f"lss-mct-cifar100-ipc{n}" for n in (1, 10, 50)},
    "ddfw run lss-mct-cifar100": {f"lss-mct-cifar100-ipc{n}" for n in (1, 10, 50)},
    "ddfw eval runs/a --cross v": {"vgg11"},
    "ddfw eval runs/a --baseline her": {"herding_real", "herding_real_teacher", "herding_pixels"},
    "ddfw export runs/a --format np": {"npz"},
    "ddfw experts import a --as m": {"mct", "mtt"},
    "ddfw pl": {"plugins"},
    "ddfw completion z": {"zsh"},
}


#: Asked in every default run; each line is a process for each shell, so that the others are left to the extended one.
OFTEN = ("ddfw run --param ", "ddfw run --set param.r", "ddfw describe param l")


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=() if line in OFTEN else pytest.mark.extended) for line in CASES]
)
def test_the_right_words_are_offered_in_every_shell(line, here):
    """Broken: `<TAB>` would offer nothing, or what a command refuses."""
    for shell in SHELLS:
        found = words(shell, line)
        # fish offers whole words of a file as well where nothing fits
        assert {word for word in found if word != line.split(" ")[-1]} == CASES[line], shell


def test_values_of_a_setting_are_offered(here):
    """Broken: the choices of an option would have to be looked up."""
    for shell in ("zsh", "fish"):
        assert words(shell, "ddfw run --set param.pairing=") == ["param.pairing=own", "param.pairing=all"]
        assert words(shell, "ddfw run --set eval.decay=t") == ["eval.decay=true"]
        assert words(shell, "ddfw run --set param=l") == ["param=linba", "param=lss"]
        assert words(shell, "ddfw run --set param.rank=") == ["param.rank=8"]
        assert "gradient.memory=auto" in words(shell, "ddfw run --set gradient.memory=")


def test_bash_splits_words_at_the_equals_sign_and_gets_what_follows_it(here):
    """Broken: bash would put the key twice into the line."""
    assert words("bash", "ddfw run --set param.pairing =") == ["own", "all"]
    assert words("bash", "ddfw run --set param.pairing = a") == ["all"]
    assert words("bash", "ddfw run --set param = pixel --set param.m") == ["param.momentum="]
    assert words("bash", "ddfw run --param = ls") == ["lss"]


def test_runs_and_stores_are_offered(finished, tmp_path):
    """Broken: directories of runs would have to be typed."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished.out, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "other").mkdir()
    shutil.copytree(finished.experts, tmp_path / "experts")
    (store,) = (index.parent.name for index in finished.experts.glob("*/index.json"))
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        for line in ("eval ", "eval runs/", "export ru", "run --init-from ", "eval x --like ru"):
            assert "runs/mine" in words("bash", f"ddfw {line}"), line
            assert "runs/other" not in words("bash", f"ddfw {line}")
        assert words("bash", f"ddfw eval {tmp_path}/runs/m") == [f"{tmp_path}/runs/mine"]
        assert words("bash", "ddfw eval ./runs/m") == ["./runs/mine"]
        assert words("bash", "ddfw experts show ") == [store]
        assert words("bash", f"ddfw experts rm --experts-dir {tmp_path / 'experts'} ") == [store]
    finally:
        os.chdir(before)


def test_files_are_left_to_the_shell_where_a_path_is_typed(here):
    """Broken: a file of settings could not be completed."""
    assert answer("bash", "ddfw run ./mi") == ["file,./mi"]
    assert answer("bash", "ddfw eval nothing/") == ["file,nothing/"]


def test_the_baselines_that_are_offered_are_those_that_there_are():
    """Broken: a baseline would be offered that `eval` refuses, or be missing."""
    from ddfw.pipeline.evaluation.baselines import BASELINES

    assert tuple(BASELINES) == BASELINE_WORDS


def test_a_fault_is_silent(here, tmp_path):
    """Broken: a message in the middle of a shell's line."""
    (tmp_path / "bad.py").write_text("raise RuntimeError('no')\n")
    found = words("bash", "ddfw run --param ls", DDFW_PLUGINS=str(tmp_path / "bad.py"))
    assert found == ["lss"]
    assert words("bash", "ddfw describe nonsense ") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_and_installed_where_the_shell_looks(ddfw, here, monkeypatch, shell):
    """Broken: the user would not know what to do with the script."""
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    script = ddfw("completion").out
    assert script == ddfw("completion", shell).out == completion_script(shell) + "\n"
    assert f"{shell}_complete" in script and "_DDFW_COMPLETE" in script
    assert not list(here.iterdir())
    said = ddfw("completion", "--install")
    (file,) = (path for path in here.rglob("*") if path.is_file())
    assert said.code == 0 and str(file) in said.out and "Open a new shell" in said.out.replace("open", "Open")
    assert file.read_text() == completion_script(shell)


def test_an_unknown_shell_is_refused_with_the_known_ones(ddfw, here, monkeypatch):
    """Broken: users of another shell would get a script that does nothing."""
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    ddfw("completion").refused(2, "tcsh", "bash, zsh, fish")
    monkeypatch.delenv("SHELL")
    ddfw("completion").refused(2, "SHELL is not set")
    ddfw("completion", "tcsh").refused(2, "tcsh")


def typed(shell: list[str], setup: str, line: str, want: str, tmp_path: Path) -> str:
    """What a real shell shows after a line is typed and `<TAB>` pressed twice."""
    binary = tmp_path / "bin" / "ddfw"
    binary.parent.mkdir(exist_ok=True)
    binary.write_text(f"#!{sys.executable}\nfrom ddfw.cli.main import main\nmain()\n")
    binary.chmod(0o755)
    environment = {**os.environ, "PATH": f"{binary.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    master, slave = pty.openpty()
    process = subprocess.Popen(shell, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    shown = ""
    try:
        os.write(master, f"{setup}\n".encode())
        time.sleep(1)
        os.write(master, f"{line}\t\t".encode())
        until = time.monotonic() + 30
        while want not in shown.rpartition(line)[2] and time.monotonic() < until:
            if select.select([master], [], [], 0.2)[0]:
                shown += os.read(master, 65536).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return shown


REAL = [
    ("ddfw run --param lin", "ba"),
    ("ddfw run --set param.rank_c", "hannels="),
    ("ddfw run --set param.pairing=o", "wn"),
    ("ddfw describe param lin", "ba"),
]


@pytest.mark.extended
@pytest.mark.parametrize(("line", "want"), REAL)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell, line, want, tmp_path, here):
    """Broken: the protocol would be right, and the shell's script not."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed here; its protocol is tested above")
    script = tmp_path / f"script.{shell}"
    script.write_text(completion_script(shell))
    start = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}[shell]
    setup = {"zsh": f"autoload -Uz compinit; compinit -u; source {script}"}.get(shell, f"source {script}")
    shown = typed([path, *start], setup, line, want, tmp_path)
    assert want in shown.rpartition(line)[2].replace("\x07", ""), shown
