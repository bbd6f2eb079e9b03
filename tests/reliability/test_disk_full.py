"""A disk that is full, at any moment: exit code 74, the file is named, nothing is lost, and the command goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from faults import Ended, at_each_operation, command_line, unbroken

#: A run as small as one can be that does everything: experts, a checkpoint, a selection, baselines, all files.
SMALL = [
    f"--set={setting}"
    for setting in (
        "model.depth=2",
        "model.width=4",
        "experts.count=2",
        "experts.epochs=2",
        "outer.steps=2",
        "outer.syn_steps=2",
        "eval.networks=2",
        "eval.epochs=1",
        "eval.full_epochs=1",
        "eval.every=1",
        "window.max_start=1",
        "param.rank=4",
        "executor.threads=1",
    )
]
#: Files whose content says when and how long, and where pages and pictures are made again from the others.
TIMED = ("metrics.jsonl", "summary.json", "manifest.json", "report.html", "latest.json", "sweep.json", "sweep.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plain_terminal) -> Iterator[Path]:
    """The folder in which all commands run; `out` below it is what is attempted again and again."""
    import torch  # noqa: F401  # once, for all children

    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def a_run(out: str = "out/run", experts: str = "out/experts") -> list[str]:
    """The words of a small run."""
    return ["run", "default", "--param", "lss", "--traj", "mct", *SMALL, "--out", out, "--experts-dir", experts, "-q"]


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder; of timed ones that they are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            timed = path.name in TIMED or path.parent.name in ("eval", "rows")
            held = b"" if timed else _tensors(path) if path.parent.name == "checkpoints" else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(held).hexdigest()
    return found


def _tensors(path: Path) -> bytes:
    """A checkpoint's tensors without its header, which counts seconds and knows where the run was resumed."""
    held = path.read_bytes()
    return held[8 + int.from_bytes(held[:8], "little") :]


def whole(folder: Path) -> None:
    """Checks that whatever lies below a folder can be read: no half JSON, no half tensors."""
    from safetensors import SafetensorError, safe_open

    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="np") as file:
                    assert list(file.keys())
            except SafetensorError as error:
                raise AssertionError(f"{path}, {path.stat().st_size} bytes: {error}") from error


def told(ended: Ended, path: str, place: Path) -> None:
    """Checks how a command ended whose operation on `path` failed."""
    assert ended.code == 74, (path, ended)
    # Experts of two epochs are no better than chance, and are said to be.
    lines = [line for line in ended.err.strip().splitlines() if not line.startswith("warning: the experts are no")]
    assert len(lines) == 1 and "No space left" in ended.err, (path, ended)
    # The final name of the file or folder that was written, or of the one that it is a part of; a folder that only
    # asks whether there is room stands for the one that will lie there.
    parts = [
        re.sub(r"^\.(.*)\.(?:[0-9a-f]{6}-\d+-\d+-)?[0-9a-f]{8}\.(tmp|old)$", r"\1", part)
        for part in Path(path).relative_to(place).parts
    ]
    asks = re.fullmatch(r"\.\w{8}\.tmp", parts[-1])
    names = ["out/"] if asks else [str(Path(*parts[:count])) for count in range(2, len(parts) + 1)]
    assert any(name in ended.err for name in names), (path, ended.err)


def attempt(
    place: Path,
    call: Callable[[], int],
    most: int,
    before: Callable[[], object],
    *,
    lasting: bool,
    again: Callable[[], int] | None = None,
) -> int:
    """Fails at one operation after another, goes on, and compares with what an unbroken command leaves."""
    before()
    first = unbroken(call, place / "out")
    assert first.code == 0, first
    expected = contents(place / "out")
    count = 0
    for fault in at_each_operation(call, place / "out", errno.ENOSPC, most, lasting=lasting, before=before):
        told(fault.ended, fault.operation.path, place)
        whole(place / "out")
        then = unbroken(again or call, place / "out")
        assert then.code == 0, (fault, then)
        assert contents(place / "out") == expected, fault.operation
        count += 1
    return count


def cleared(place: Path, *kept: str) -> Callable[[], None]:
    """Makes `out` what it was: empty, but for copies of other folders."""

    def clear() -> None:
        shutil.rmtree(place / "out", ignore_errors=True)
        (place / "out").mkdir()
        for name in kept:
            shutil.copytree(place / name, place / "out" / name)

    return clear


@pytest.mark.extended
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_a_run_meets_a_full_disk_at_any_operation(place, size, figures, lasting):
    """Broken: a full disk would lose work, look like success, or leave what cannot be gone on from."""
    count = attempt(place, command_line(a_run()), size(3, 100), cleared(place), lasting=lasting)
    figures(what="run", lasting=lasting, faults=count, exit_74=count, equal_after=count)


@pytest.mark.extended
def test_an_expert_store_meets_a_full_disk_at_any_operation(place, size, figures):
    """Broken: experts that were paid for would be lost, or half ones would be trusted."""
    words = ["experts", "train", "default", *SMALL, "--experts-dir", "out/experts", "-q"]
    call = command_line(words)
    count = attempt(place, call, size(2, 1000), cleared(place), lasting=False)
    figures(what="experts", faults=count, exit_74=count, equal_after=count)


@pytest.mark.parametrize("form", ["npz", "safetensors", "imagefolder", "mtt"])
def test_an_export_meets_a_full_disk_at_any_operation(place, finished, size, figures, form):
    """Broken: half an export would lie where a whole one is expected, or an old one would be gone."""
    # The fault lasts, since `zipfile` opens a file a second time where the first time fails.
    words = ["export", str(finished.out), "--format", form, "--out", f"out/{form}"]
    count = attempt(place, command_line(words), size(2, 1000), cleared(place), lasting=True)
    old = place / form
    if not old.exists():
        shutil.copytree(place / "out" / form, old)
    call = command_line([*words, "--force"])
    # Here only one operation fails: what is moved back to its place needs no room on a disk.
    for fault in at_each_operation(call, place / "out", errno.ENOSPC, size(2, 1000), before=cleared(place, form)):
        if form != "npz" or fault.ended.code:
            told(fault.ended, fault.operation.path, place)
        assert contents(place / "out" / form) == contents(old), fault.operation
        count += 1
    figures(what=f"export {form}", faults=count, exit_74=count)


@pytest.mark.extended
def test_a_sweep_meets_a_full_disk_at_any_operation(place, size, figures):
    """Broken: trials would be lost or run twice, or a sweep would rank what is not there."""
    tables: dict[str, list[str]] = {}
    for setting in SMALL:
        table, _, rest = setting.removeprefix("--set=").partition(".")
        tables.setdefault(table, []).append(rest)
    text = '[sweep]\nrecipe = "digits"\nsummary = "rates"\n'
    text += "".join(f"[base.{table}]\n" + "\n".join(lines) + "\n" for table, lines in tables.items())
    (place / "sweep.toml").write_text(f"{text}[grid]\nparam.lr = [1.0, 10.0]\n")
    words = ["sweep", "sweep.toml", "--out", "out/sweep", "--experts-dir", "out/experts", "-q"]
    count = attempt(place, command_line(words), size(2, 100), cleared(place), lasting=False)
    figures(what="sweep", faults=count, exit_74=count, equal_after=count)


@pytest.mark.extended
def test_a_limit_on_the_size_of_files_is_74_and_the_run_goes_on_without_it(place, size, figures):
    """Broken: a quota of the shell or of a queue would look like a bug, or kill the run without a word."""
    run = command_line(a_run())
    cleared(place)()
    assert unbroken(run, place / "out").code == 0
    expected = contents(place / "out")
    largest = max(path.stat().st_size for path in (place / "out").rglob("*") if path.is_file())
    limits = [largest * part // (size(2, 20) + 1) for part in range(1, size(2, 20) + 1)]
    for limit in limits:
        cleared(place)()

        def limited(limit: int = limit) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                return run()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        ended = unbroken(limited, place / "none")
        assert ended.code == 74, (limit, ended)
        assert "File too large" in ended.err and "bytes are needed" in ended.err and "out/" in ended.err, ended.err
        whole(place / "out")
        assert unbroken(run, place / "out").code == 0
        assert contents(place / "out") == expected
    figures(what="RLIMIT_FSIZE", faults=len(limits), exit_74=len(limits), equal_after=len(limits))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system in memory of so many bytes; it can be mounted with another size again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(count: int) -> Path:
        option = "remount," if mounted else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{option}size={count}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(count)
        return folder

    try:
        yield mount
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_small_disk_that_fills_up_is_74_and_the_run_goes_on_with_more_room(place, small_disk, size, figures):
    """Broken: what an injected error shows would not hold on a real file system."""
    if os.geteuid():
        pytest.skip("only root mounts file systems")
    folder = small_disk(64_000_000)
    os.symlink(folder, place / "disk")
    call = command_line(a_run("disk/run", "disk/experts"))
    assert unbroken(call, folder).code == 0
    expected = contents(folder)
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())
    count = size(1, 10)
    for part in range(1, count + 1):
        for name in ("run", "experts"):
            shutil.rmtree(folder / name, ignore_errors=True)
        small_disk(max(needed * part // (count + 1) // 4096 * 4096, 8192))
        ended = unbroken(call, folder)
        assert ended.code == 74 and "No space left" in ended.err and "disk/" in ended.err, (part, ended)
        whole(folder)
        small_disk(64_000_000)
        assert unbroken(call, folder).code == 0
        assert contents(folder) == expected
    os.unlink(place / "disk")
    figures(what="tmpfs", faults=count, exit_74=count, equal_after=count)
