"""Files are written whole or not at all, with ordinary permissions, and read only if nothing in them changed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.artifacts import atomic
from ddfw.errors import DataError, DirectoryInUseError


@pytest.fixture
def umask() -> Iterator[object]:
    """Sets the umask; puts it back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def header_of(path: Path) -> dict[str, object]:
    """A safetensors header, read without the library."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :]


def test_what_was_written_is_what_is_read_and_the_hash_is_the_contents(tmp_path):
    """Broken: a manifest would hold hashes that no file has."""
    content = bytes(range(256)) * 5
    digest = atomic.write_bytes(tmp_path / "f.bin", content)
    assert (tmp_path / "f.bin").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest() == atomic.file_sha256(tmp_path / "f.bin")
    assert listing(tmp_path) == ["f.bin"]


def test_an_older_file_is_replaced_even_if_it_was_longer(tmp_path):
    """Broken: a rewritten file would keep the tail of the one before."""
    atomic.write_bytes(tmp_path / "f.bin", b"x" * 1000)
    atomic.write_bytes(tmp_path / "f.bin", b"y")
    assert (tmp_path / "f.bin").read_bytes() == b"y"


def test_text_is_utf_8_and_json_keeps_the_order_of_its_keys(tmp_path):
    """Broken: names with accents would be garbled, or a card would read in another order on each machine."""
    atomic.write_text(tmp_path / "t.txt", "Düne ± 1 %\n")
    assert (tmp_path / "t.txt").read_bytes() == "Düne ± 1 %\n".encode()
    atomic.write_json(tmp_path / "j.json", {"z": 1, "a": {"y": [1.5, None], "b": "é"}})
    assert (tmp_path / "j.json").read_text(encoding="utf-8").index('"z"') < 5
    assert atomic.read_json(tmp_path / "j.json") == {"z": 1, "a": {"y": [1.5, None], "b": "é"}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_that_no_other_reader_takes_is_not_written(tmp_path, value):
    """Broken: NaN would reach a summary, and every strict JSON reader would refuse the whole file."""
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "j.json", {"mean": value})
    assert listing(tmp_path) == []


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_permissions_that_the_umask_allows(tmp_path, umask, mask, expected):
    """Broken: colleagues could not read results, or private results would be open to everyone."""
    umask(mask)
    atomic.write_bytes(tmp_path / "f.bin", b"x")
    atomic.write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)}, {})
    for name in ("f.bin", "t.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    """Broken: a full disk or Ctrl-C would leave half a file under the final name, or litter beside it."""
    atomic.write_bytes(tmp_path / "f.bin", b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        atomic.write_bytes(tmp_path / "f.bin", b"new")
    with pytest.raises(type(error)):
        atomic.write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)}, {})
    assert listing(tmp_path) == ["f.bin"]
    assert (tmp_path / "f.bin").read_bytes() == b"old"


def test_the_content_is_synced_before_it_gets_its_name_and_the_folder_after(tmp_path, monkeypatch):
    """Broken: after a power cut, a file could have its name but not its content."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noting_replace(source: object, target: object) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    atomic.write_bytes(tmp_path / "f.bin", b"x")
    assert order == ["file", "rename", "folder"]


def test_safetensors_files_have_exactly_one_metadata_key(tmp_path):
    """Broken: several keys change order between processes, and equal runs would no longer be equal byte for byte."""
    atomic.write_tensors(tmp_path / "t.safetensors", {"b": torch.ones(2), "a": torch.zeros(3)}, {"y": 1, "x": [2]})
    metadata = header_of(tmp_path / "t.safetensors")["__metadata__"]
    assert len(metadata) == 1
    assert json.loads(next(iter(metadata.values()))) == {"y": 1, "x": [2]}


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(two_processes):
    """Broken: byte identity of runs would depend on Python's hash seed."""
    assert (two_processes / "a.safetensors").read_bytes() == (two_processes / "b.safetensors").read_bytes()


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path):
    """Broken: stored sets would differ from the ones that were evaluated."""
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "float32": torch.randn(3, 4, generator=rng),
        "float64": torch.randn(5, generator=rng, dtype=torch.float64),
        "int64": torch.tensor([-(2**62), 0, 2**62]),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "scalar": torch.tensor(1.5),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    found = atomic.read_tensors(
        tmp_path / "t.safetensors", atomic.write_tensors(tmp_path / "t.safetensors", tensors, {})
    )
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_a_parameter_that_needs_gradients_can_be_written(tmp_path):
    """Broken: writing a learned tensor directly would fail."""
    tensor = torch.ones(3, requires_grad=True)
    digest = atomic.write_tensors(tmp_path / "t.safetensors", {"a": tensor}, {})
    assert torch.equal(atomic.read_tensors(tmp_path / "t.safetensors", digest)["a"], torch.ones(3))


def test_every_single_flipped_byte_is_found(tmp_path):
    """Broken: damaged results would be read as if they were whole; safetensors itself does not notice payload bits."""
    path = tmp_path / "t.safetensors"
    digest = atomic.write_tensors(path, {"a": torch.arange(3.0)}, {"schema": 1})
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flipped(whole, position))
        with pytest.raises(DataError, match=r"t\.safetensors"):
            atomic.read_tensors(path, digest)
    path.write_bytes(whole)
    assert torch.equal(atomic.read_tensors(path, digest)["a"], torch.arange(3.0))


def test_truncated_lengthened_and_missing_files_are_refused_by_name(tmp_path):
    """Broken: an interrupted copy would be taken for the whole file."""
    path = tmp_path / "t.safetensors"
    digest = atomic.write_tensors(path, {"a": torch.arange(3.0)}, {})
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t\.safetensors"):
            atomic.read_tensors(path, digest)
    path.unlink()
    with pytest.raises(DataError, match=r"t\.safetensors is missing"):
        atomic.read_tensors(path, digest)


def test_a_file_with_the_right_hash_that_is_no_safetensors_file_is_refused(tmp_path):
    """Broken: a library's own exception would reach the user as an internal error."""
    digest = atomic.write_bytes(tmp_path / "t.safetensors", b"not tensors at all")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        atomic.read_tensors(tmp_path / "t.safetensors", digest)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"null", b'"text"', b"\xff\xfe\x00", b"[" * 200_000, b'{"a": }', b"{'a': 1}"],
    ids=["empty", "open", "list", "null", "text", "bytes", "deep", "hole", "quotes"],
)
def test_garbage_in_place_of_json_is_a_data_error_that_names_the_file(tmp_path, content):
    """Broken: a damaged index or card would end in a traceback."""
    (tmp_path / "j.json").write_bytes(content)
    with pytest.raises(DataError, match=r"j\.json"):
        atomic.read_json(tmp_path / "j.json")


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_json_reading_gives_an_object_or_a_data_error_whatever_the_bytes(tmp_path_factory, content):
    """Broken: some damage would escape as another exception."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        assert isinstance(atomic.read_json(path), dict)
    except DataError as error:
        assert "any.json" in str(error)


def test_missing_json_is_a_data_error(tmp_path):
    """Broken: a missing card would look like a bug of ddfw."""
    with pytest.raises(DataError, match="is missing"):
        atomic.read_json(tmp_path / "none.json")


def test_a_lock_refuses_a_second_holder_and_is_free_again_afterwards(tmp_path):
    """Broken: two runs could write one directory at the same time."""
    with (
        atomic.locked(tmp_path, "the run directory", wait=False),
        pytest.raises(DirectoryInUseError, match="in use") as caught,
        atomic.locked(tmp_path, "the run directory", wait=False),
    ):
        pass
    assert str(tmp_path) in str(caught.value) and "the run directory" in str(caught.value)
    with atomic.locked(tmp_path, "the run directory", wait=False):
        pass


def test_a_lock_refuses_another_process_and_is_free_once_that_ends(tmp_path):
    """Broken: the lock would only be one within a process, or outlive a killed one."""
    code = (
        "import sys; from pathlib import Path; from ddfw.artifacts import atomic\n"
        "with atomic.locked(Path(sys.argv[1]), 'it', wait=False):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUseError), atomic.locked(tmp_path, "it", wait=False):
            pass
        other.kill()
    with atomic.locked(tmp_path, "it", wait=False):
        pass


@pytest.mark.parametrize("error", [FileNotFoundError, BlockingIOError, OSError, ValueError])
def test_an_error_while_something_is_locked_or_claimed_stays_what_it_is(tmp_path, error):
    """Broken: a file that is missing in a plugin's training is told as "generator didn't stop after throw()"."""
    for block in (atomic.claimed(tmp_path / "claim"), atomic.locked(tmp_path, "it", wait=True)):
        with pytest.raises(error, match=r"^its own$") as caught, block:
            raise error("its own")
        assert caught.value.__context__ is None
    with atomic.claimed(tmp_path / "claim") as mine, atomic.claimed(tmp_path / "claim") as again:
        assert mine and not again


def test_room_for_a_folder_is_tried_and_leaves_nothing(tmp_path):
    """Broken: a run would learn for hours and then have no place, or the trial would leave rubbish."""
    (tmp_path / "file").write_text("")
    atomic.require_room(tmp_path / "a" / "b")
    atomic.require_room(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OSError, match="no folder can be made there") as caught:
        atomic.require_room(tmp_path / "file" / "x")
    assert caught.value.filename == str(tmp_path / "file" / "x")
