"""`imagefolder`: pictures of an export say what they cost; pictures from anywhere are pixels."""

from __future__ import annotations

import json
import shutil

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

import ddfw
from ddfw import DataError, OptionError


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
    found = ddfw.read_images(exported / "imagefolder").targets.argmax(dim=1)
    assert torch.equal(found, learned.targets.argmax(dim=1))
    card = json.loads((exported / "imagefolder" / "card.json").read_text())
    for name in ("card.json", "labels.json"):
        (exported / "imagefolder" / name).rename(exported / name)
    try:
        bare = ddfw.read_images(exported / "imagefolder")
    finally:
        for name in ("card.json", "labels.json"):
            (exported / name).rename(exported / "imagefolder" / name)
    folders = sorted({row["file"].split("/")[0] for row in card["export"]["images"]})
    assert bare.class_names == tuple(folders) and bare.pixels and bare.targets.dtype == torch.int64
    numbers = [int(name.split("-")[0]) for name in folders]
    counted = learned.targets.argmax(dim=1).bincount(minlength=10)
    assert [int((bare.targets == k).sum()) for k in range(len(folders))] == counted[numbers].tolist()


def test_images_that_a_png_cannot_hold_are_refused_and_nothing_is_left(learned, tmp_path):
    """Broken: two channels would be written as something else."""
    space = attrs.evolve(learned.space, mean=(0.0, 0.0), std=(1.0, 1.0))
    wide = attrs.evolve(learned, images=learned.images.repeat(1, 2, 1, 1), space=space)
    with pytest.raises((OptionError, DataError), match="2"):
        ddfw.export(wide, "imagefolder", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_class_names_never_become_paths(learned, tmp_path):
    """Broken: a class called ../x would put its pictures outside of the export."""
    names = ["../../out", "/abs", "", "..", ".", "a/b", "ü ö", "x" * 300, "con", "nul\0"]
    card = {**learned.card, "source_data": {**learned.card["source_data"], "class_names": names}}
    try:
        ddfw.export(attrs.evolve(learned, card=card), "imagefolder", tmp_path / "in" / "set")
    except OSError:
        names[7] = "y" * 30  # too long for the file system: refusing is fine as well
        ddfw.export(attrs.evolve(learned, card=card), "imagefolder", tmp_path / "in" / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["in"] and [p.name for p in (tmp_path / "in").iterdir()] == ["set"]
    assert ddfw.load(tmp_path / "in" / "set").class_names == tuple(names)


def test_pictures_are_pixels_of_their_own_kind(picture, tmp_path):
    """Broken: grey pictures would have three channels, or coloured ones one."""
    for name, mode, channels in (("grey", "L", 1), ("colour", "RGB", 3), ("alpha", "RGBA", 3)):
        for label in ("a", "b"):
            picture(tmp_path / name / label / "0.png", mode=mode, value=51)
        found = ddfw.read_images(tmp_path / name)
        assert found.images.shape == (2, channels, 8, 8) and found.pixels
        np.testing.assert_allclose(found.images.numpy(), 0.2, rtol=1e-6)
        assert found.class_names == ("a", "b") and found.targets.tolist() == [0, 1]


def test_a_16_bit_picture_is_not_silently_saturated(picture, tmp_path):
    """Broken: everything brighter than 1/256 would become white."""
    picture(tmp_path / "deep" / "a" / "0.png", mode="I;16", value=32768)
    try:
        found = ddfw.read_images(tmp_path / "deep")
    except DataError:
        return  # refusing is fine
    assert float(found.images.max()) == pytest.approx(0.5, abs=0.01)


def test_folders_that_are_no_set_are_a_data_error(picture, tmp_path):
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
            ddfw.read_images(tmp_path / name)


def test_soft_labels_lie_beside_the_folders_and_are_read_again(exported, learned, tmp_path):
    """Broken: whoever is given the pictures without the card learns from hard labels, and nobody says so."""
    bare = shutil.copytree(exported / "imagefolder", tmp_path / "bare")
    (bare / "card.json").unlink()
    record = json.loads((bare / "labels.json").read_text())
    assert record["class_names"] == list(learned.class_names)
    rows = [record["targets"][path.relative_to(bare).as_posix()] for path in sorted(bare.glob("*/*.png"))]
    assert torch.equal(torch.tensor(rows), learned.targets)  # sorted by class and number, as the set is
    found = ddfw.read_images(bare)
    assert torch.equal(found.targets, learned.targets) and found.class_names == tuple(learned.class_names)


def test_classes_need_no_labels_beside_the_folders(learned, tmp_path):
    """Broken: folders that say everything would come with a file that may contradict them."""
    hard = torch.nn.functional.one_hot(learned.targets.argmax(dim=1), 10).to(learned.targets.dtype)
    card = ddfw.export(attrs.evolve(learned, targets=hard), "imagefolder", tmp_path / "set")
    assert not (tmp_path / "set" / "labels.json").exists()
    assert not any("labels.json" in note for note in card["export"]["notes"])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda record: record["targets"].popitem(), "has no row"),
        (lambda record: record["targets"].update({"0-0/none.png": [0.1] * 10}), "is not there"),
        (lambda record: record["class_names"].pop(), "expected"),
        (lambda record: record.pop("class_names"), "class_names"),
        (lambda record: record["targets"].update({"0-0/00000.png": ["x"] * 10}), "labels.json"),
        (lambda record: record["targets"].update({"0-0/00000.png": [0.9] * 10}), "probabilities"),
        (lambda record: record["targets"].update({"0-0/00000.png": [float("nan")] * 10}), "finite"),
    ],
)
def test_labels_that_do_not_fit_the_pictures_are_refused(exported, tmp_path, harm, words):
    """Broken: a picture that was added, or a file that was edited, would give labels to the wrong images."""
    bare = shutil.copytree(exported / "imagefolder", tmp_path / "bare")
    (bare / "card.json").unlink()
    record = json.loads((bare / "labels.json").read_text())
    harm(record)
    (bare / "labels.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=words):
        ddfw.read_images(bare)


def test_values_outside_the_pixel_range_are_counted_and_told_how_far_they_lie(learned, tmp_path):
    """Broken: a set of which much is clipped would look as faithful as any."""
    images = learned.space.encode(torch.full((20, 1, 8, 8), 0.5 * learned.space.max_value), torch.float32)
    images[0, 0, 0, :3] = learned.space.encode(torch.full((1, 1, 1, 1), 3.25 * learned.space.max_value), torch.float32)
    card = ddfw.export(attrs.evolve(learned, images=images), "imagefolder", tmp_path / "set")
    rounding = card["export"]["rounding"]
    assert rounding["clipped_values"] == 3 and rounding["farthest_outside"] == pytest.approx(2.25, abs=1e-4)
    assert any("3 of 1,280 values (0.2 %)" in note and "2.2" in note for note in card["export"]["notes"])


def test_numbered_folders_are_the_labels(picture, tmp_path):
    """Broken: of twelve folders 0 … 11, folder 10 would be class 2."""
    for label in range(12):
        picture(tmp_path / "set" / str(label) / "0.png", value=20 * label)
    found = ddfw.read_images(tmp_path / "set")
    assert found.class_names == tuple(map(str, range(12))) and found.targets.tolist() == list(range(12))
    np.testing.assert_allclose(found.images[:, 0, 0, 0].numpy() * 255, 20 * np.arange(12), atol=1e-4)
    (tmp_path / "set" / "0").rename(tmp_path / "set" / "12")
    assert "'2' before '10'" in ddfw.read_images(tmp_path / "set").notes[0]
    picture(tmp_path / "set" / "02" / "0.png")
    with pytest.raises(DataError, match="'02' and '2' hold the same number"):
        ddfw.read_images(tmp_path / "set")
