"""Checkpoints: the newest alone, whole or not at all, and the same tensors to the last bit and stride."""

from __future__ import annotations

import json

import pytest
import torch

from ddfw.artifacts import atomic, checkpoint
from ddfw.errors import DataError

RECORD = {"best": 0.1 + 0.2, "seconds": {"distill": 1e-17}, "words": "é", "none": None}


def tensors():
    rng = torch.Generator().manual_seed(0)
    return {
        "a.b": torch.randn(3, 4, generator=rng),
        "turned": torch.randn(3, 4, generator=rng).T,
        "last": torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64).to(memory_format=torch.channels_last),
        "whole": torch.arange(5),
        "scalar": torch.tensor(0.1),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def test_what_was_written_is_read_to_the_last_bit_and_stride(tmp_path):
    """Broken: a run that goes on would drift from the one that was not stopped."""
    checkpoint.write_checkpoint(tmp_path / "c", 500, tensors(), RECORD)
    pointer = checkpoint.latest(tmp_path / "c")
    assert (pointer.file, pointer.step) == ("step-000500.safetensors", 500)
    found = checkpoint.read_checkpoint(tmp_path / "c", pointer)
    assert found.step == 500 and found.record == RECORD and set(found.tensors) == set(tensors())
    for name, tensor in tensors().items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].stride() == tensor.stride(), name
        assert found.tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_only_the_newest_is_kept_and_leftovers_of_a_killed_process_go(tmp_path):
    """Broken: a long run would fill the disk."""
    checkpoint.write_checkpoint(tmp_path, 5, tensors(), {})
    (tmp_path / ".step-000010.safetensors.12.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.write_checkpoint(tmp_path, 10, tensors(), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "notes.txt", "step-000010.safetensors"]
    assert checkpoint.latest(tmp_path).step == 10
    checkpoint.remove(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    checkpoint.remove(tmp_path / "absent")


@pytest.mark.parametrize("fatal", ["write_tensors", "write_json", "keep_only"])
def test_a_process_that_dies_while_it_writes_leaves_a_checkpoint_that_is_whole(tmp_path, monkeypatch, fatal):
    """Broken: a kill at the wrong moment would cost the whole run."""
    checkpoint.write_checkpoint(tmp_path, 5, tensors(), {"n": 5})
    with monkeypatch.context() as broken:

        def die(*args, **kwargs):
            raise KeyboardInterrupt

        broken.setattr(checkpoint if fatal == "keep_only" else atomic, fatal, die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write_checkpoint(tmp_path, 10, tensors(), {"n": 10})
    pointer = checkpoint.latest(tmp_path)
    assert checkpoint.read_checkpoint(tmp_path, pointer).record == {"n": pointer.step}
    assert pointer.step == (10 if fatal == "keep_only" else 5)
    checkpoint.write_checkpoint(tmp_path, 15, tensors(), {"n": 15})
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path):
    """Broken: a run that was never saved could not start."""
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


def test_a_damaged_file_is_refused_with_the_way_out(tmp_path):
    """Broken: a run would go on from noise."""
    folder = tmp_path / "check points"
    checkpoint.write_checkpoint(folder, 5, tensors(), {})
    pointer, path = checkpoint.latest(folder), folder / "step-000005.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"step-000005.*damaged.*rm -r '.*check points'"):
        checkpoint.read_checkpoint(folder, pointer)
    path.unlink()
    with pytest.raises(DataError, match=r"missing.*rm -r"):
        checkpoint.read_checkpoint(folder, pointer)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"schema": 2, "file": "step-000005.safetensors", "sha256": "0", "step": 5}),
        json.dumps({"schema": 1, "file": "../step-000005.safetensors", "sha256": "0", "step": 5}),
        json.dumps({"schema": 1, "file": 5, "sha256": "0", "step": 5}),
        json.dumps({"schema": 1, "file": "step-000005.safetensors", "sha256": "0", "step": "5"}),
    ],
)
def test_a_garbled_pointer_is_refused_with_the_way_out(tmp_path, text):
    """Broken: an edited latest.json would be an internal error, or name a file elsewhere."""
    (tmp_path / "latest.json").write_text(text)
    with pytest.raises(DataError, match=r"latest\.json.*rm -r"):
        checkpoint.latest(tmp_path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    """Broken: some other safetensors file with the right hash would be an internal error."""
    digest = atomic.write_tensors(tmp_path / "step-000005.safetensors", tensors(), {"schema": 1})
    with pytest.raises(DataError, match=r"no checkpoint.*rm -r"):
        checkpoint.read_checkpoint(tmp_path, checkpoint.Pointer(file="step-000005.safetensors", sha256=digest, step=5))
