"""Exports and sets from elsewhere: what is written can be read again by anyone, and nothing is taken on trust."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import ddfw
from ddfw.artifacts import atomic, exchange
from ddfw.artifacts.synthetic import sealed_card
from ddfw.errors import DataError, DirectoryInUseError, OptionError

EXACT = ("safetensors", "npz", "mtt")


@pytest.fixture(scope="module")
def learned(small_run):
    """What the tiny run learned: 20 grey 8×8 images with soft labels."""
    return ddfw.load(small_run.directory)


@pytest.fixture(scope="module")
def exported(learned, tmp_path_factory):
    """A folder for each format."""
    place = tmp_path_factory.mktemp("exports")
    for form in exchange.FORMATS:
        exchange.export(learned, form, place / form)
    return place


@pytest.fixture
def bare(tmp_path):
    """Writes images_best.pt, labels_best.pt and, if given, lr_best.pt as other programs do; returns their folder."""

    def write(images, labels, lr=None):
        for name, content in (("images", images), ("labels", labels), ("lr", lr)):
            if content is not None:
                torch.save(content, tmp_path / f"{name}_best.pt")
        return tmp_path

    return write


IMAGES = torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8)


# --- a run's set --------------------------------------------------------------------------------------------------


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
    torch.testing.assert_close(learned.augment(learned.images), learned.images, rtol=0, atol=0)


def test_networks_of_a_loaded_run_depend_on_their_seed_alone(learned):
    """Broken: a training loop with a seed would not repeat itself."""

    def vector(seed):
        return torch.nn.utils.parameters_to_vector(learned.network(seed).parameters())

    first = vector(3)
    torch.rand(5)
    assert torch.equal(first, vector(3)) and not torch.equal(first, vector(4))


# --- round trips --------------------------------------------------------------------------------------------------


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


def test_the_cost_of_8_bit_pictures_is_what_the_card_says(exported, learned):
    """Broken: the card would promise another loss than the one that users of the pictures have."""
    again, folder = ddfw.load(exported / "imagefolder"), exported / "imagefolder"
    card = json.loads((folder / "card.json").read_text())
    # From the files alone, in NumPy: pixel = byte / 255, training space = (pixel - mean) / std.
    space = card["training_space"]
    shown = np.stack([np.asarray(Image.open(folder / row["file"])) for row in card["export"]["images"]]) / 255
    encoded = (shown[:, None] - space["mean"][0]) / space["std"][0]
    before = learned.images.double().numpy()
    error, stated = np.abs(encoded - before), card["export"]["rounding"]
    assert stated["largest"] == pytest.approx(error.max(), rel=1e-4)
    assert stated["root_mean_square"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    pixels = before * space["std"][0] + space["mean"][0]
    assert stated["clipped_fraction"] == pytest.approx(((pixels < 0) | (pixels > 1)).mean(), abs=1e-3)
    np.testing.assert_allclose(again.images.numpy(), encoded, atol=1e-5)
    assert error[(pixels >= 0) & (pixels <= 1)].max() <= 0.5 / 255 / space["std"][0] + 1e-5
    assert torch.equal(again.targets, learned.targets)


def test_the_class_of_every_picture_is_its_folder(exported, learned):
    """Broken: other programs, which see folders alone, would learn wrong classes."""
    found = exchange.read_images(exported / "imagefolder").targets.argmax(dim=1)
    assert torch.equal(found, learned.targets.argmax(dim=1))
    card = json.loads((exported / "imagefolder" / "card.json").read_text())
    (exported / "imagefolder" / "card.json").rename(exported / "aside.json")
    try:
        bare = exchange.read_images(exported / "imagefolder")
    finally:
        (exported / "aside.json").rename(exported / "imagefolder" / "card.json")
    folders = sorted({row["file"].split("/")[0] for row in card["export"]["images"]})
    assert bare.class_names == tuple(folders) and bare.pixels and bare.targets.dtype == torch.int64
    numbers = [int(name.split("-")[0]) for name in folders]
    counted = learned.targets.argmax(dim=1).bincount(minlength=10)
    assert [int((bare.targets == k).sum()) for k in range(len(folders))] == counted[numbers].tolist()


def test_an_npz_is_complete_for_people_who_have_only_numpy(exported, learned):
    """Broken: without ddfw nobody could use it."""
    with np.load(exported / "npz" / "set.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["images"], learned.images.numpy())
        assert np.array_equal(archive["targets"], learned.targets.numpy())
        assert np.array_equal(archive["labels"], learned.targets.numpy().argmax(axis=1))
        assert float(archive["step_size"]) == learned.step_size
        assert archive["class_names"].tolist() == list(learned.class_names)
        space = learned.card["training_space"]
        pixels = archive["images"].astype(np.float64) * space["std"][0] + space["mean"][0]
        np.testing.assert_allclose(archive["pixels"], pixels, atol=1e-6)


def test_the_pt_files_are_tensors_alone(exported, learned):
    """Broken: programs that load with weights_only would refuse them."""
    images, labels, lr = (
        torch.load(exported / "mtt" / f"{name}_best.pt", weights_only=True) for name in ("images", "labels", "lr")
    )
    assert torch.equal(images, learned.images) and not images.requires_grad
    assert labels.shape == (20, 10) and torch.equal(labels, learned.targets)
    assert float(lr) == learned.step_size


def one_hot(learned):
    labels = learned.targets.argmax(dim=1)
    return attrs.evolve(learned, targets=torch.nn.functional.one_hot(labels, 10).to(learned.images.dtype)), labels


def test_hard_labels_are_classes_in_the_pt_files(learned, tmp_path):
    """Broken: cross entropy of other programs would take one-hot rows for soft labels, or refuse them."""
    hard, labels = one_hot(learned)
    exchange.export(hard, "mtt", tmp_path / "hard")
    found = torch.load(tmp_path / "hard" / "labels_best.pt", weights_only=True)
    assert found.dtype == torch.int64 and torch.equal(found, labels)
    again = ddfw.load(tmp_path / "hard")
    assert torch.equal(again.targets, hard.targets) and again.targets.dtype == hard.targets.dtype


def test_soft_labels_that_are_nearly_certain_stay_soft(learned, tmp_path):
    """Broken: where the largest probability rounds to 1, the rest of a row would be lost."""
    targets = torch.full((20, 10), 1e-9)
    targets[torch.arange(20), torch.arange(20) // 2] = 1.0
    exchange.export(attrs.evolve(learned, targets=targets), "mtt", tmp_path / "certain")
    assert torch.equal(ddfw.load(tmp_path / "certain").targets, targets)


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_double_precision_survives(learned, tmp_path, form):
    """Broken: labels of a run in float64 would come back rounded."""
    targets = torch.rand(20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precise = attrs.evolve(learned, images=learned.images.double() / 3, targets=targets / targets.sum(1, keepdim=True))
    exchange.export(precise, form, tmp_path / "set")
    again = ddfw.load(tmp_path / "set")
    assert torch.equal(again.targets, precise.targets)
    if form in EXACT:
        assert torch.equal(again.images, precise.images) and again.images.dtype == torch.float64


@pytest.mark.parametrize("form", exchange.FORMATS)
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


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_a_file_that_its_card_does_not_vouch_for_is_refused(exported, form, tmp_path):
    """Broken: a card without hashes would make verification a formality."""
    folder = Path(shutil.copytree(exported / form, tmp_path / "copy"))
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = {}
    card.pop("card_sha256")
    (folder / "card.json").write_text(json.dumps(sealed_card(card)))
    with pytest.raises(DataError):
        ddfw.load(folder)


# --- whole or not at all ------------------------------------------------------------------------------------------


def broken_pipe(*arguments, **options):
    raise OSError(28, "No space left on device", "somewhere")


@pytest.mark.parametrize("form", exchange.FORMATS)
@pytest.mark.parametrize("call", ["write_bytes", "write_tensors", "write_json"])
def test_a_failure_midway_leaves_nothing_behind(learned, tmp_path, monkeypatch, form, call):
    """Broken: half an export would look like a whole one."""
    calls = []
    original = getattr(atomic, call)

    def second_fails(*arguments, **options):
        calls.append(1)
        return original(*arguments, **options) if len(calls) == 1 and call == "write_bytes" else broken_pipe()

    monkeypatch.setattr(atomic, call, second_fails)
    try:
        exchange.export(learned, form, tmp_path / "set")
    except OSError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert not calls or (call == "write_bytes" and len(calls) == 1)  # this format does not write that way


def test_an_interrupt_leaves_nothing_behind(learned, tmp_path, monkeypatch):
    """Broken: Ctrl-C would leave a draft, or folders that were made on the way to it."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_json", interrupted)
    for out in (tmp_path / "set", tmp_path / "new" / "set"):
        with pytest.raises(KeyboardInterrupt):
            exchange.export(learned, "npz", out)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_what_is_there_is_not_touched(learned, tmp_path, form):
    """Broken: an export would overwrite somebody's files."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(DirectoryInUseError, match="there already"):
            exchange.export(learned, form, tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    exchange.export(learned, form, tmp_path / "empty")
    assert (tmp_path / "empty" / "card.json").is_file()


def test_a_hidden_neighbour_is_nobodys_draft(learned, tmp_path):
    """Broken: a folder of the user's that has the name of a draft would be deleted, or two exports share one draft."""
    (tmp_path / ".set.tmp").mkdir()
    (tmp_path / ".set.tmp" / "mine.txt").write_text("mine")
    exchange.export(learned, "npz", tmp_path / "set")
    assert (tmp_path / ".set.tmp" / "mine.txt").read_text() == "mine"


def test_images_that_a_png_cannot_hold_are_refused_and_nothing_is_left(learned, tmp_path):
    """Broken: two channels would be written as something else."""
    space = attrs.evolve(learned.space, mean=(0.0, 0.0), std=(1.0, 1.0))
    wide = attrs.evolve(learned, images=learned.images.repeat(1, 2, 1, 1), space=space)
    with pytest.raises((OptionError, DataError), match="2"):
        exchange.export(wide, "imagefolder", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_class_names_never_become_paths(learned, tmp_path):
    """Broken: a class called ../x would put its pictures outside of the export."""
    names = ["../../out", "/abs", "", "..", ".", "a/b", "ü ö", "x" * 300, "con", "nul\0"]
    card = {**learned.card, "source_data": {**learned.card["source_data"], "class_names": names}}
    try:
        exchange.export(attrs.evolve(learned, card=card), "imagefolder", tmp_path / "in" / "set")
    except OSError:
        names[7] = "y" * 30  # too long for the file system: refusing is fine as well
        exchange.export(attrs.evolve(learned, card=card), "imagefolder", tmp_path / "in" / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["in"] and [p.name for p in (tmp_path / "in").iterdir()] == ["set"]
    assert ddfw.load(tmp_path / "in" / "set").class_names == tuple(names)


# --- sets from elsewhere ------------------------------------------------------------------------------------------


def test_logits_become_probabilities_with_a_note(bare):
    """Broken: networks would learn from logits as if they were probabilities."""
    logits = torch.tensor(np.random.default_rng(0).normal(size=(6, 3)), dtype=torch.float32)
    found = exchange.read_images(bare(IMAGES, logits))
    expected = np.exp(logits.double().numpy())
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.targets.numpy(), expected, rtol=1e-6)
    assert any("softmax" in note for note in found.notes)
    certain = exchange.read_images(bare(IMAGES, torch.from_numpy(expected)))
    assert certain.notes == () and torch.equal(certain.targets, torch.from_numpy(expected).float())


def test_whole_numbers_are_classes_whatever_their_type(bare):
    """Broken: labels that another program saved as floats would be refused, or 2.5 be class 2."""
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64):
        found = exchange.read_images(bare(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2], dtype=dtype)))
        assert found.targets.dtype == torch.int64 and found.targets.tolist() == [0, 1, 2, 0, 1, 2]
    for odd in ([0, 1, 2.5, 0, 1, 2], [0, 1, 2, 0, 1, float("nan")], [0, 1, float("inf"), 0, 1, 2]):
        with pytest.raises(DataError):
            exchange.read_images(bare(IMAGES, torch.tensor(odd)))


def test_a_learning_rate_beside_the_images_is_taken_and_a_wrong_one_refused(bare):
    """Broken: networks would train with another step size than the set was learned for."""
    labels = torch.arange(6)
    assert exchange.read_images(bare(IMAGES, labels)).step_size is None
    for lr in (torch.tensor(0.25), torch.tensor([0.25]), torch.nn.Parameter(torch.tensor(0.25))):
        assert exchange.read_images(bare(IMAGES, labels, lr)).step_size == 0.25
    for lr in (torch.tensor(-0.1), torch.tensor(0.0), torch.tensor(float("nan")), torch.tensor([0.1, 0.2])):
        with pytest.raises(DataError, match="lr_best"):
            exchange.read_images(bare(IMAGES, labels, lr))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:5], torch.arange(6)),
        (IMAGES[0], torch.arange(1)),
        (IMAGES[:0], torch.arange(0)),
        (IMAGES.to(torch.uint8), torch.arange(6)),
        (IMAGES / 0, torch.arange(6)),
        (IMAGES, torch.zeros(6, 3, 2)),
        (IMAGES, torch.zeros(6, dtype=torch.complex64)),
        (IMAGES.to_sparse(), torch.arange(6)),
        ([IMAGES], torch.arange(6)),
        ({"images": IMAGES}, torch.arange(6)),
        (torch.empty(6, 1, 8, 8, device="meta"), torch.arange(6)),
        (torch.zeros(1).expand(10**12, 1, 8, 8), torch.arange(6)),
    ],
    ids=[
        *("fewer-images", "no-batch", "empty", "bytes", "not-finite", "labels-3d", "complex", "sparse", "list", "dict"),
        *("meta", "more-than-any-memory"),
    ],
)
def test_tensors_that_are_no_labelled_images_are_a_data_error(bare, images, labels):
    """Broken: whatever lies in a .pt file would be trained on, or end as an internal error."""
    with pytest.raises(DataError):
        exchange.read_images(bare(images, labels))


def test_the_best_images_of_a_folder_are_taken_else_the_last(bare):
    """Broken: of a folder with every iteration, the one before any learning would be judged."""
    folder = bare(IMAGES, torch.arange(6))
    for step in (0, 500, 1000):
        torch.save(IMAGES + step, folder / f"images_{step}.pt")
        torch.save(torch.arange(6), folder / f"labels_{step}.pt")
    assert torch.equal(exchange.read_images(folder).images, IMAGES)
    assert torch.equal(exchange.read_images(folder / "images_500.pt").images, IMAGES + 500)
    (folder / "images_best.pt").unlink()
    try:
        found = exchange.read_images(folder)
    except DataError:
        return  # asking which one is as good
    assert torch.equal(found.images, IMAGES + 1000)


def picture(path, size=(8, 8), mode="L", value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value, value, value, 255)[: len(mode)]
    Image.new(mode, size, colour).save(path)


def test_pictures_are_pixels_of_their_own_kind(tmp_path):
    """Broken: grey pictures would have three channels, or coloured ones one."""
    for name, mode, channels in (("grey", "L", 1), ("colour", "RGB", 3), ("alpha", "RGBA", 3)):
        for label in ("a", "b"):
            picture(tmp_path / name / label / "0.png", mode=mode, value=51)
        found = exchange.read_images(tmp_path / name)
        assert found.images.shape == (2, channels, 8, 8) and found.pixels
        np.testing.assert_allclose(found.images.numpy(), 0.2, rtol=1e-6)
        assert found.class_names == ("a", "b") and found.targets.tolist() == [0, 1]


def test_a_16_bit_picture_is_not_silently_saturated(tmp_path):
    """Broken: everything brighter than 1/256 would become white."""
    picture(tmp_path / "deep" / "a" / "0.png", mode="I;16", value=32768)
    try:
        found = exchange.read_images(tmp_path / "deep")
    except DataError:
        return  # refusing is fine
    assert float(found.images.max()) == pytest.approx(0.5, abs=0.01)


def test_folders_that_are_no_set_are_a_data_error(tmp_path):
    """Broken: a wrong path would be an internal error, or a set of nothing."""
    (tmp_path / "none").mkdir()
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    picture(tmp_path / "sizes" / "a" / "0.png")
    picture(tmp_path / "sizes" / "b" / "0.png", size=(8, 9))
    picture(tmp_path / "text" / "a" / "0.png")
    (tmp_path / "text" / "a" / "1.png").write_text("no picture")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "a").symlink_to(tmp_path / "loop" / "a")
    (tmp_path / "word.txt").write_text("x")
    for name in ("none", "hollow", "sizes", "text", "loop", "word.txt", "missing"):
        with pytest.raises(DataError, match=name):
            exchange.read_images(tmp_path / name)
