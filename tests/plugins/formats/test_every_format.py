"""Every format: what is written can be read again, is verified, and is written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

import ddfw
from ddfw import DataError, DirectoryInUseError
from ddfw.artifacts.synthetic import sealed_card
from ddfw.config.extensions import formats

FORMATS = tuple(formats().entries)
EXACT = ("safetensors", "npz", "mtt")


def test_the_formats_are_those_that_the_documentation_names():
    """Broken: the tests below would pass over a format."""
    assert set(FORMATS) == {*EXACT, "imagefolder"}


def test_formats_are_listed_without_loading_torch_or_the_modules_of_formats():
    """Broken: help and completion of `ddfw export` would take seconds."""
    code = "import sys, ddfw_plugins.commands.export as e; print(sorted(e.WRITABLE)); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    names, modules = done.stdout.splitlines()
    assert names == str(sorted(FORMATS)) and "'ddfw_plugins.formats'" in modules
    assert "'torch'" not in modules and "'numpy'" not in modules and "ddfw_plugins.formats." not in modules


@pytest.mark.parametrize("form", EXACT)
def test_an_export_comes_back_bit_by_bit(exported, learned, form):
    """Broken: what other programs get would not be what was evaluated."""
    again = ddfw.load(exported / form)
    for name in ("images", "targets"):
        ours, theirs = getattr(learned, name), getattr(again, name)
        assert theirs.dtype == ours.dtype and torch.equal(theirs, ours), name
    assert (again.step_size, again.step) == (learned.step_size, learned.step)
    assert again.space.record() == learned.space.record() and again.class_names == learned.class_names
    assert again.augmentation == learned.augmentation and again.model == learned.model


@pytest.mark.parametrize("form", FORMATS)
def test_double_precision_survives(learned, tmp_path, form):
    """Broken: labels of a run in float64 would come back rounded."""
    targets = torch.rand(20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precise = attrs.evolve(learned, images=learned.images.double() / 3, targets=targets / targets.sum(1, keepdim=True))
    ddfw.export(precise, form, tmp_path / "set")
    again = ddfw.load(tmp_path / "set")
    assert torch.equal(again.targets, precise.targets)
    if form in EXACT:
        assert torch.equal(again.images, precise.images) and again.images.dtype == torch.float64


@pytest.mark.parametrize("form", FORMATS)
def test_every_file_of_an_export_is_verified(exported, form, tmp_path):
    """Broken: damaged images would be trained on."""
    folder = Path(shutil.copytree(exported / form, tmp_path / "copy"))
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "card.json"]
    card = json.loads((folder / "card.json").read_text())
    assert sorted(names) == sorted(card["sha256"])
    for name in (names[0], names[-1]):
        kept = (folder / name).read_bytes()
        changed = bytearray(kept)
        changed[len(kept) // 2] ^= 0x10
        (folder / name).write_bytes(bytes(changed))
        with pytest.raises(DataError, match="damaged"):
            ddfw.load(folder)
        (folder / name).unlink()
        with pytest.raises(DataError, match=Path(name).name):
            ddfw.load(folder)
        (folder / name).write_bytes(kept)
    text = (folder / "card.json").read_text()
    (folder / "card.json").write_text(text.replace('"digits"', '"digitz"', 1))
    with pytest.raises(DataError, match="edited"):
        ddfw.load(folder)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_its_card_does_not_vouch_for_is_refused(exported, form, tmp_path):
    """Broken: a card without hashes would make verification a formality."""
    folder = Path(shutil.copytree(exported / form, tmp_path / "copy"))
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = {}
    card.pop("card_sha256")
    (folder / "card.json").write_text(json.dumps(sealed_card(card)))
    with pytest.raises(DataError):
        ddfw.load(folder)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", range(3))
def test_a_disk_that_is_full_midway_leaves_nothing_behind(learned, tmp_path, monkeypatch, form, number):
    """Broken: half an export would look like a whole one."""
    calls = []

    def sync(file):
        calls.append(file)
        if len(calls) > number:
            raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="No space left"):
        ddfw.export(learned, form, tmp_path / "set")
    assert len(calls) == number + 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_is_not_touched(learned, tmp_path, form):
    """Broken: an export would overwrite somebody's files."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(DirectoryInUseError, match="there already"):
            ddfw.export(learned, form, tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    ddfw.export(learned, form, tmp_path / "empty")
    assert (tmp_path / "empty" / "card.json").is_file()
