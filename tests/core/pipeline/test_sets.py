"""Learned sets looked up: what loads, which format reads a path, and what a format may not do."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import ddfw
from ddfw import DataError, DuplicateComponentError, OptionError, PluginError, UnknownComponentError
from ddfw.artifacts.synthetic import sealed_card
from ddfw.config import catalog, extensions

OLD = Path(__file__).parents[2] / "fixtures" / "v0_1"


@pytest.fixture(scope="module")
def learned():
    """A tiny learned set: 20 grey 8×8 images with soft labels."""
    return ddfw.load(OLD / "run")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Puts a plugin with the formats that a source text offers beside the built-in ones."""
    caches = (catalog.plugins, catalog.catalog, extensions.commands, extensions.formats, extensions.recipe_folders)

    def write(offers, functions=""):
        sys.modules.pop("toy_formats", None)
        head = "from ddfw import Format, ImageSet, hookimpl\n\n\n@hookimpl\ndef ddfw_register_formats():\n"
        (tmp_path / "toy_formats.py").write_text(f"{head}    return [{offers}]\n\n\n{functions}")
        importlib.invalidate_caches()
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("DDFW_PLUGINS", "toy_formats")
        for cache in caches:
            cache.cache_clear()

    yield write
    monkeypatch.undo()
    sys.modules.pop("toy_formats", None)
    for cache in caches:
        cache.cache_clear()


def test_a_loaded_run_is_a_data_set_of_pytorchs_with_everything_to_train_on(learned):
    """Broken: the five lines in which people train on a learned set would not work."""
    assert isinstance(learned, torch.utils.data.Dataset) and len(learned) == 20
    assert learned.images.shape == (20, 1, 8, 8) and learned.targets.shape == (20, 10)
    assert bool((learned.targets >= 0).all())
    torch.testing.assert_close(learned.targets.sum(dim=1), torch.ones(20))
    assert learned.step_size > 0 and learned.class_names == tuple(str(i) for i in range(10))
    loader = DataLoader(learned, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0))
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [6, 6, 6, 2]
    images, targets = (torch.cat([batch[k] for batch in batches]) for k in range(2))

    def pairs(images, targets):
        return sorted(i.numpy().tobytes() + t.numpy().tobytes() for i, t in zip(images, targets, strict=True))

    assert pairs(images, targets) == pairs(learned.images, learned.targets)
    assert not torch.equal(images, learned.images)
    assert learned.network(0)(learned.images).shape == (20, 10)
    draws = learned.augmentation.draw((20, 1, 8, 8), torch.Generator().manual_seed(3))
    seen = learned.augment(learned.images, torch.Generator().manual_seed(3))
    assert torch.equal(seen, learned.augmentation.apply(learned.images, draws)) and learned.augmentation.name == "dsa"


def test_networks_of_a_loaded_run_depend_on_their_seed_alone(learned):
    """Broken: a training loop with a seed would not repeat itself."""

    def vector(seed):
        return torch.nn.utils.parameters_to_vector(learned.network(seed).parameters())

    first = vector(3)
    torch.rand(5)
    assert torch.equal(first, vector(3)) and not torch.equal(first, vector(4))


# --- which reader -------------------------------------------------------------------------------------------------


def test_an_export_whose_format_no_plugin_reads_is_named_with_the_way_out(tmp_path, plugin, monkeypatch):
    """Broken: without a plugin its exports would be called damaged, or be read as something else."""
    shutil.copytree(OLD / "exports" / "mtt", tmp_path / "set")
    monkeypatch.setenv("DDFW_DISABLE_PLUGINS", "ddfw:format-mtt")
    plugin("")
    for read in (ddfw.load, ddfw.read_images):
        with pytest.raises(PluginError, match=r"set is in the format 'mtt', which no installed plugin reads.*plugins"):
            read(tmp_path / "set")
    assert torch.equal(ddfw.load(OLD / "exports" / "npz").images, ddfw.load(OLD / "run").images)


def test_an_unknown_format_is_refused_with_the_nearest_name(tmp_path):
    """Broken: a typo would be an internal error."""
    with pytest.raises(UnknownComponentError, match=r"'npy'. Did you mean 'npz'\?"):
        ddfw.export(OLD / "run", "npy", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_two_plugins_offer_reads_and_writes_nothing(tmp_path, plugin):
    """Broken: one of two readers would silently win."""
    plugin('Format(name="npz", summary="another", reader="toy_formats:read", writer="toy_formats:write")')
    for call in (lambda: ddfw.load(OLD / "exports" / "npz"), lambda: ddfw.export(OLD / "run", "npz", tmp_path / "set")):
        with pytest.raises(DuplicateComponentError, match=r"format-npz.*toy_formats"):
            call()


def test_a_path_that_two_formats_read_is_refused_with_both_names(tmp_path, plugin):
    """Broken: which of two readers is asked would hang on the order of their names."""
    shutil.copytree(OLD / "exports" / "mtt", tmp_path / "set")
    (tmp_path / "set" / "card.json").unlink()
    plugin('Format(name="toy", summary="a toy", patterns=("*_best.pt",), reader="toy_formats:read")')
    for path in (tmp_path / "set", tmp_path / "set" / "images_best.pt"):
        with pytest.raises(DataError, match="could be read as mtt or as toy"):
            ddfw.read_images(path)


def test_files_nearer_to_the_path_decide_before_those_in_its_folders(tmp_path):
    """Broken: pictures that a program puts in a folder beside its images*.pt would make the set unreadable."""
    shutil.copytree(OLD / "exports" / "mtt", tmp_path / "set")
    shutil.copytree(OLD / "exports" / "imagefolder", tmp_path / "set" / "shown")
    for name in ("card.json", "shown/card.json"):
        (tmp_path / "set" / name).unlink()
    assert torch.equal(ddfw.read_images(tmp_path / "set").images, ddfw.load(OLD / "run").images)
    assert ddfw.read_images(tmp_path / "set" / "shown").pixels


def test_a_file_that_its_card_names_stands_for_its_folder_and_any_other_does_not(tmp_path):
    """Broken: whatever lies in an export would be taken for the set."""
    folder = shutil.copytree(OLD / "exports" / "npz", tmp_path / "set")
    assert ddfw.load(folder / "set.npz").step == ddfw.read_images(folder / "set.npz").step == ddfw.load(folder).step
    (folder / "notes.txt").write_text("mine")
    for read in (ddfw.load, ddfw.read_images):
        for name in ("notes.txt", "missing.npz"):
            with pytest.raises(DataError, match=name):
                read(folder / name)
    card = {key: value for key, value in json.loads((folder / "card.json").read_text()).items() if key != "card_sha256"}
    for hashes in (["set.npz"], "set.npz", 3, None):
        (folder / "card.json").write_text(json.dumps(sealed_card({**card, "sha256": hashes})))
        for path in (folder, folder / "set.npz"):
            with pytest.raises(DataError):
                ddfw.read_images(path)


# --- what a format may not do -------------------------------------------------------------------------------------

TOY = 'Format(name="toy", summary="a toy", patterns=("*.toy",), {})'
WRITE = """
def write(learned, folder):
    (folder / "x.toy").write_text("toy")
    return {}
"""


def test_a_format_that_only_reads_is_not_written_and_one_that_only_writes_not_read(tmp_path, plugin):
    """Broken: a missing half would be an internal error."""
    plugin(TOY.format('reader="toy_formats:read"'))
    with pytest.raises(OptionError, match="toy can be read and not written"):
        ddfw.export(OLD / "run", "toy", tmp_path / "set")
    plugin(TOY.format('writer="toy_formats:write"'), WRITE)
    ddfw.export(OLD / "run", "toy", tmp_path / "set")
    with pytest.raises(PluginError, match="'toy', which no installed plugin reads"):
        ddfw.load(tmp_path / "set")


def test_patterns_are_a_tuple_of_relative_names():
    """Broken: `patterns="*.csv"` would be read as five patterns, of which `*` fits every path."""
    for wrong in ("*.csv", ["*.csv"], ("/set.csv",), ("",), ("a//b",)):
        with pytest.raises((TypeError, ValueError), match="patterns"):
            ddfw.Format(name="toy", summary="a toy", patterns=wrong, reader="toy_formats:read")
    assert ddfw.Format(name="toy", summary="a toy", patterns=("*/*.csv",)).patterns == ("*/*.csv",)


def test_a_reader_that_returns_something_else_is_the_plugins_fault(tmp_path, plugin):
    """Broken: a plugin author would be told that a card is garbled."""
    both = 'reader="toy_formats:read", writer="toy_formats:write"'
    plugin(TOY.format(both), WRITE + "\n\ndef read(path, card):\n    return path\n")
    ddfw.export(OLD / "run", "toy", tmp_path / "set")
    for path in ("set", "set/x.toy"):
        with pytest.raises(PluginError, match=r"toy_formats:read returned <class .*Path'>, no ddfw.ImageSet"):
            ddfw.read_images(tmp_path / path)


def test_what_a_reader_of_an_export_leaves_out_comes_from_the_card(tmp_path, plugin, learned):
    """Broken: every third party would have to read step size, training space and class names for itself."""
    read = """
def read(path, card):
    import torch
    assert (path / "x.toy").read_text() == "toy"
    return ImageSet(images=torch.ones(20, 1, 8, 8), targets=torch.arange(20) // 2)
"""
    plugin(TOY.format('reader="toy_formats:read", writer="toy_formats:write"'), WRITE + read)
    card = ddfw.export(learned, "toy", tmp_path / "set")
    assert card["format"] == "toy" and list(card["sha256"]) == ["x.toy"]
    again = ddfw.load(tmp_path / "set")
    assert again.targets.dtype == torch.float32 and again.targets.argmax(dim=1).tolist() == [n // 2 for n in range(20)]
    assert (again.step_size, again.step, again.class_names) == (learned.step_size, learned.step, learned.class_names)
    assert again.space.record() == learned.space.record()
    found = ddfw.read_images(tmp_path / "set")
    assert "exported as toy to" in found.origin and found.floats == {"strict": 584, "pixels": 384}


# --- sets of older versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "npz", "mtt", "imagefolder"])
def test_what_version_0_1_exported_loads_and_is_written_again_bit_for_bit(tmp_path, form):
    """Broken: whoever was given a set, or compares an export with an older one, would be turned away."""
    old, run = OLD / "exports" / form, ddfw.load(OLD / "run")
    learned = ddfw.load(old)
    assert torch.equal(learned.targets, run.targets) and learned.step_size == run.step_size
    assert form == "imagefolder" or torch.equal(learned.images, run.images)
    assert learned.network(0)(learned.augment(learned.images)).shape == (20, 10)
    ddfw.export(OLD / "run", form, tmp_path / "set")
    files = sorted(p.relative_to(old) for p in old.rglob("*") if p.is_file())
    soft = {Path("labels.json")} if form == "imagefolder" else set()  # what a folder cannot say was in the card alone
    there = {p.relative_to(tmp_path / "set") for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert files == sorted(there - soft) and soft <= there
    # Files of NumPy, torch and Pillow may differ with their versions; their content was compared above.
    for file in (f for f in files if f.suffix == ".safetensors"):
        assert (tmp_path / "set" / file).read_bytes() == (old / file).read_bytes()
    before, now = (json.loads((folder / "card.json").read_text()) for folder in (old, tmp_path / "set"))
    assert list(now) == list(before)
    assert [name for name in now["sha256"] if Path(name) not in soft] == list(before["sha256"])
    for key, value in before["export"].items():  # later versions add to what older ones said, and change nothing
        kept = {k: now["export"][key][k] for k in value} if isinstance(value, dict) else now["export"][key]
        assert kept == value


def test_what_version_0_1_wrote_evaluates_as_it_did(tmp_path):
    """Broken: figures of a finished run could no longer be checked."""
    stated = json.loads((OLD / "run" / "eval" / "distilled.json").read_text())["accuracies"]
    found = {
        path: ddfw.evaluate(OLD / path, like=str(OLD / "run"), quiet=True).reports[0].accuracies
        for path in ("run", "exports/safetensors", "exports/npz", "exports/mtt")
    }
    assert set(found.values()) == {found["run"]}
    # Another machine or version of torch sums in another order, which may move a few of 359 test images.
    assert found["run"] == pytest.approx(stated, abs=0.03)
    assert ddfw.evaluate(OLD / "exports" / "imagefolder", like=str(OLD / "run"), quiet=True).reports[0].n == 2
