"""Temporaries tell whose they are: those of dead processes go at the next start, those of living ones stay."""

from __future__ import annotations

import os
import re
import time

import pytest

from ddfw.artifacts import atomic, temporaries
from ddfw.artifacts.temporaries import temporary_beside, tidy
from ddfw.artifacts.tensor_file import load_tensors, refuse_not_finite
from ddfw.errors import DataError, DirectoryInUseError


def of_another(path, make=lambda made: made.write_bytes(b"half")):
    """A temporary beside `path` that a process made which has ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        made = temporary_beside(path)
        make(made)
        os.write(writing, os.fsencode(made))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return type(path)(os.fsdecode(pipe.read()))


def a_folder(made):
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "file").write_text("half")


@pytest.mark.parametrize("make", [lambda made: made.write_bytes(b"half"), a_folder])
def test_what_a_dead_process_left_is_removed_and_what_a_living_one_makes_stays(tmp_path, make):
    """Broken: files would pile up beside results, or a process would lose what it is writing."""
    dead, mine = of_another(tmp_path / "set", make), temporary_beside(tmp_path / "set")
    make(mine)
    tidy(tmp_path)
    assert not dead.exists() and mine.exists()


def test_a_number_that_another_process_has_now_does_not_keep_a_temporary(tmp_path, monkeypatch):
    """Broken: in a container, where every start has the number 1, nothing would ever be removed."""
    mine = temporary_beside(tmp_path / "a")
    mine.touch()
    started = temporaries._start(os.getpid())
    assert started > 0
    monkeypatch.setattr(temporaries, "_start", lambda pid: started + 1)
    tidy(tmp_path)
    assert not mine.exists()


def test_a_temporary_of_another_machine_is_given_up_after_a_day(tmp_path, monkeypatch):
    """Broken: on a shared disk one machine would remove what another one is writing."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(temporaries, "_place", lambda: "abcdef")
        theirs = temporary_beside(tmp_path / "a")
    theirs.touch()
    tidy(tmp_path)
    assert theirs.exists()
    os.utime(theirs, (time.time() - 90_000,) * 2)
    tidy(tmp_path)
    assert not theirs.exists()


def test_only_what_we_name_so_is_removed(tmp_path):
    """Broken: files of other programs, or of the user, would be lost."""
    kept = [".a.tmp", "a.tmp", ".tmp", ".hidden", ".a.1234.tmp", ".x.abcdef-1-2-12345678.tmp.bak", "a.0123abcd.tmp"]
    for name in kept:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    tidy(tmp_path)
    with atomic.locked(tmp_path, "the folder", wait=False):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, ".lock"])


def test_writing_a_file_removes_what_a_dead_process_left_of_it_and_of_nothing_else(tmp_path):
    """Broken: a folder of the user's would be searched, or a page, an export and a cache keep strays."""
    same, other = of_another(tmp_path / "page.html"), of_another(tmp_path / "notes.html")
    atomic.write_text(tmp_path / "page.html", "whole")
    assert not same.exists() and other.exists()


def test_a_process_killed_while_it_tries_whether_a_folder_can_be_made_leaves_nothing_for_long(tmp_path):
    """Broken: folders without a name would pile up beside runs and exports."""
    stray = of_another(tmp_path / "run", lambda made: made.mkdir())
    atomic.require_room(tmp_path / "run")
    assert not stray.exists() and list(tmp_path.iterdir()) == []


def test_whoever_locks_a_folder_tidies_it_below_but_not_where_another_holds_a_lock(tmp_path):
    """Broken: a folder below – pictures, snapshots, earlier runs – would keep strays, or a running trial lose files."""
    free, held = tmp_path / "earlier" / "step-1", tmp_path / "trials" / "0001"
    for folder in (free, held):
        folder.mkdir(parents=True)
    stray, theirs = of_another(free / "a"), of_another(held / "a")
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    outside.mkdir()
    foreign = of_another(outside / "a")
    (tmp_path / "link").symlink_to(outside)
    with atomic.locked(held, "the trial", wait=False):
        theirs.touch()  # made by the holder
        with atomic.locked(tmp_path, "the sweep", wait=False):
            pass
        assert not stray.exists() and theirs.exists() and foreign.exists()
    with atomic.locked(tmp_path, "the sweep", wait=False):
        pass
    assert not theirs.exists()


def test_a_long_name_still_has_a_temporary(tmp_path):
    """Broken: a file whose name fits the disk could not be written."""
    atomic.write_text(tmp_path / ("n" * 250), "whole")
    assert (tmp_path / ("n" * 250)).read_text() == "whole"


def test_the_second_process_is_told_the_first_ones_number_and_machine(tmp_path):
    """Broken: nobody would know which process to wait for, or to stop."""

    def lock():
        return atomic.locked(tmp_path, "the run directory", wait=False)

    me = f"process {os.getpid()} on {re.escape(os.uname()[1])}"
    with lock():
        with pytest.raises(DirectoryInUseError, match=f"in use by {me};"), lock():
            pass
        (tmp_path / ".lock").write_bytes(b"1 \x1b[31mevil\n")
        with pytest.raises(DirectoryInUseError, match="in use by another process;"), lock():
            pass


def test_a_tensor_file_has_the_bytes_of_the_reference_implementation(tmp_path):
    """Broken: hashes of results would differ from those of earlier versions, or files be unreadable."""
    import torch
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(0)
    kinds = (
        "float32",
        "float64",
        "bfloat16",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
    )
    tensors = {f'{9 - i} é"\\\n': torch.randn(2, 3, generator=rng).to(getattr(torch, k)) for i, k in enumerate(kinds)}
    tensors |= {"none": torch.zeros(0, 3), "scalar": torch.tensor(1.5), "turned": torch.arange(6.0).view(2, 3).t()}
    sha256 = atomic.write_tensors(tmp_path / "ours", tensors, {"a": [1, None, "é"]})
    text = '{"a": [1, null, "é"]}'
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "theirs", metadata={"ddfw": text})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sha256 == atomic.file_sha256(tmp_path / "ours")
    read = load_tensors(tmp_path / "ours")
    assert read.keys() == tensors.keys()
    assert all(read[k].dtype == t.dtype and torch.equal(read[k], t) for k, t in tensors.items())


def test_a_complex_number_that_is_not_finite_is_refused(tmp_path):
    """Broken: the NaN of a stranger's file would enter a computation."""
    import torch

    with pytest.raises(DataError, match="spectrum holds values that are NaN or infinite"):
        refuse_not_finite(tmp_path / "x", {"spectrum": torch.tensor([1 + 1j, complex(0, float("nan"))])})
