"""`imagefolder`: a user's pictures, of every usual kind, and nothing that only looks like one."""

from __future__ import annotations

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ddfw import DataError, OptionError
from ddfw.cli.main import invoke
from ddfw.testing import check_data
from ddfw_plugins import picture_files
from ddfw_plugins.datasets import _pictures
from ddfw_plugins.datasets.imagefolder import ImageFolder


@pytest.fixture
def folder(official_files, tmp_path):
    """Three classes of six PNG files, 7×5 pixels."""
    official_files.write_imagefolder(tmp_path)
    return tmp_path / "pictures"


def load(folder, **options):
    return ImageFolder(path=str(folder), **options).load(None)


def everything(splits):
    parts = (splits.train, splits.validation, splits.test.read())
    return torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])


def only(image, folder, suffix=".png", **saved):
    """What a picture is read as: one file replaced in a folder whose other pictures have its size."""
    for path in folder.rglob("*.png"):
        Image.new("L", image.size).save(path)
    image.save(folder / "ant" / f"000x{suffix}", **saved)
    images, _ = everything(load(folder))
    return images[int(images.flatten(1).sum(1, dtype=torch.int64).argmax())].numpy()


def test_it_keeps_the_contract_and_its_pixels(folder, official_files):
    """Broken: labels would not be those of the folders' names, or rows and columns would be exchanged."""
    check_data(ImageFolder(path="pictures"), folder.parent)
    check_data(ImageFolder(path="pictures", size=4, colour="grey", test=0.4), folder.parent)
    splits = load(folder)
    assert splits.class_names == ("ant", "bee", "cat") and splits.spec.shape == (3, 7, 5)
    images, labels = everything(splits)
    for label in range(3):
        found = {i.numpy().tobytes() for i in images[labels == label]}
        known = official_files.pixels(6, 7, 5, 3, seed=label).transpose(0, 3, 1, 2)
        assert found == {np.ascontiguousarray(i).tobytes() for i in known}
    assert splits.licence == "not stated" and "pictures" in splits.source


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_of_splits_are_the_splits(official_files, tmp_path, test):
    """Broken: test images would be trained on."""
    official_files.write_imagefolder(tmp_path, "mine/train", n=8)
    official_files.write_imagefolder(tmp_path, f"mine/{test}", n=2)
    for path in (tmp_path / "mine" / test).rglob("*.png"):
        Image.new("RGB", (5, 7), "red").save(path)
    splits = load(tmp_path / "mine")
    assert splits.class_counts() == (8, 8, 8) and splits.test.read().labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(splits.test.last_read.images[:, 0].flatten().tolist()) == {255}
    (tmp_path / "mine" / test / "dog").mkdir()
    with pytest.raises(DataError, match=rf"'dog' is in {test}/ but not in train/"):
        load(tmp_path / "mine")


def test_pictures_lie_at_any_depth_and_come_in_the_order_of_their_names(folder):
    """Broken: a run would depend on the order in which a disk lists files."""
    expected, _ = everything(load(folder, split_seed=5))
    for name in ("ant", "bee", "cat"):
        (folder / name / "images" / "deep").mkdir(parents=True)
        for path in sorted((folder / name).glob("*.png"), reverse=True):
            path.rename(folder / name / "images" / "deep" / path.name)
    (folder / ".hidden").mkdir()
    (folder / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / "ant" / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    found, _ = everything(load(folder, split_seed=5))
    assert torch.equal(found, expected)


def test_grey_pictures_have_one_channel_unless_one_has_colour(folder):
    """Broken: grey data would cost three times as much, or colours would be lost."""
    paths = sorted(folder.rglob("*.png"))
    for number, path in enumerate(paths):
        Image.new("L", (5, 7), 10 * number).save(path)
    grey, _ = everything(load(folder))
    assert grey.shape[1] == 1
    assert load(folder, colour="rgb").spec.channels == 3
    Image.new("RGB", (5, 7), (1, 2, 3)).save(paths[9])
    mixed, _ = everything(load(folder))
    assert mixed.shape[1] == 3 and sorted(mixed[:, 1, 0, 0].tolist()) == sorted(
        [*range(0, 90, 10), 2, *range(100, 180, 10)]
    )
    assert load(folder, colour="grey").spec.channels == 1


def test_pictures_of_several_sizes_need_a_size(folder):
    """Broken: images would be silently stretched, or stop a run without the way out."""
    Image.new("RGB", (9, 9)).save(folder / "bee" / "other.png")
    with pytest.raises(DataError, match=r"other\.png has 9×9 pixels, expected 7×5; set data\.size"):
        load(folder)
    assert load(folder, size=4).spec.shape == (3, 4, 4)
    assert load(folder, size=(4, 6)).spec.shape == (3, 4, 6)


def test_a_wide_picture_is_cropped_around_its_centre(folder):
    """Broken: things would be squeezed, or the middle would be lost."""
    for path in folder.rglob("*.png"):
        image = Image.new("L", (30, 10))
        image.paste(200, (10, 0, 20, 10))
        image.save(path)
    images, _ = everything(load(folder, size=5))
    # The filter reaches a little beyond the edge; squeezed images would have black columns.
    assert int(images.min()) > 180


@pytest.mark.parametrize("size", [0, -1, (4,), (4, 0), (4, 4, 4), 5000, "4x4"])
def test_sizes_that_make_no_sense_are_refused(size):
    """Broken: a size of nothing would fail much later."""
    with pytest.raises(ValueError, match="one or two integers from 1 to 4096"):
        ImageFolder(path="x", size=size)


@pytest.mark.parametrize(("given", "shape"), [("4", "[3, 4, 4]"), ("[4, 6]", "[3, 4, 6]")])
def test_a_size_can_be_given_on_the_command_line(folder, given, shape, capsys):
    """Broken: photographs could be used from Python only."""
    arguments = ["run", "--data", "imagefolder", "--set", f"data.path={folder}", "--set", f"data.size={given}"]
    assert invoke([*arguments, "--set", "model.depth=1", "--set", "param.rank=2", "--dry-run"]) in (0, 2)
    assert shape in capsys.readouterr().out


def test_a_picture_is_turned_as_its_exif_says(folder):
    """Broken: photographs of phones would lie on their side."""
    image = Image.new("L", (8, 4))
    image.paste(255, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folder.rglob("*.png"):
        Image.new("L", (4, 8)).save(path)
    image.save(folder / "ant" / "turned.jpg", exif=exif, quality=95)
    images, _ = everything(load(folder))
    brightest = images[int(images.flatten(1).sum(1, dtype=torch.int64).argmax()), 0].float()
    assert brightest.shape == (8, 4) and brightest[:4].mean() > 240 and brightest[4:].mean() < 15


def test_transparency_is_white(folder):
    """Broken: cut-out pictures would stand on black, or on whatever lies below."""
    image = Image.new("RGBA", (5, 7), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    found = only(image, folder)
    assert found[:, 0, 0].tolist() == [10, 20, 30] and (found[:, 1:] == 255).all()
    (folder / "ant" / "000x.png").unlink()
    assert only(Image.new("LA", (5, 7), (0, 0)), folder).tolist() == [[[255] * 5] * 7]


def test_palettes_one_bit_and_sixteen_bits_become_bytes(folder):
    """Broken: indices of colours, or the low byte of 16 bits, would pass for brightness."""
    palette = Image.new("P", (5, 7), 1)
    palette.putpalette([0, 0, 0, 250, 240, 230])
    assert only(palette, folder)[:, 3, 3].tolist() == [250, 240, 230]
    (folder / "ant" / "000x.png").unlink()
    assert only(Image.new("1", (5, 7), 1), folder).max() == 255
    (folder / "ant" / "000x.png").unlink()
    deep = np.full((7, 5), 0x0101 * 77, np.uint16)
    deep[0, 0] = 0xFFFF
    found = only(Image.fromarray(deep), folder)
    assert found[0, 0, 0] == 255 and (found[0, 1:] == 77).all()


@pytest.mark.parametrize("suffix", [".JPG", ".webp", ".gif", ".bmp", ".tiff", ".ppm", ".jpeg"])
def test_every_usual_format_is_read(folder, suffix):
    """Broken: a user would have to convert a folder first."""
    kind = {".JPG": "JPEG"}.get(suffix)
    found = only(Image.new("RGB", (5, 7), (200, 200, 200)), folder, suffix, **({"format": kind} if kind else {}))
    assert abs(int(found.max()) - 200) <= 2


def test_of_a_moving_picture_the_first_is_taken(folder):
    """Broken: an animation would be refused, or its last picture used."""
    first, *more = (Image.new("L", (5, 7), value) for value in (90, 30, 60))
    found = only(first, folder, ".gif", save_all=True, append_images=more)
    assert int(found.max()) == 90


def bomb(path):
    """A PNG of some kilobytes with 60,000 × 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def truncated(folder):
    path = folder / "bee" / "photo.jpg"
    Image.effect_noise((7, 5), 60).resize((50, 70)).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    return r"photo\.jpg was refused: damaged or not a picture"


def flipped(folder):
    path = folder / "bee" / "000.png"
    whole = bytearray(path.read_bytes())
    whole[45] ^= 0xFF
    path.write_bytes(whole)
    return r"000\.png was refused: damaged"


def a_text(folder):
    (folder / "bee" / "text.png").write_text("no picture")
    return r"text\.png was refused: damaged or not a picture"


def a_program(folder):
    # Pillow hands such a file to another program, where it may.
    (folder / "bee" / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 7\n%%EndComments\n")
    return r"page\.png was refused: damaged or not a picture"


def a_bomb(folder):
    bomb(folder / "bee" / "bomb.png")
    return r"bomb\.png was refused: .*pixels"


def a_smaller_bomb(folder):
    Image.new("1", (10_000, 8_000)).save(folder / "bee" / "bomb.png")
    return r"bomb\.png was refused: it has 10000×8000 pixels, at most"


def a_folder_for_a_picture(folder):
    (folder / "bee" / "x.png").mkdir()
    for path in (folder / "bee").glob("*.png"):
        if path.is_file():
            path.unlink()
    return "bee holds no picture"


def an_empty_class(folder):
    (folder / "dog").mkdir()
    (folder / "dog" / "readme.txt").write_text("x")
    return r"dog holds no picture \(1 other files were passed over, such as 'readme\.txt'\)"


def a_pipe(folder):
    os.mkfifo(folder / "bee" / "pipe.png")
    return r"pipe\.png is not a plain file"


def a_class_elsewhere(folder):
    (folder / "bee").rename(folder.parent / "outside")
    (folder / "bee").symlink_to(folder.parent / "outside")
    return "bee is a link out of"


def a_picture_elsewhere(folder):
    (folder / "bee" / "000.png").rename(folder.parent / "outside.png")
    (folder / "bee" / "000.png").symlink_to("../../outside.png")
    return r"000\.png is a link out of"


def a_loop(folder):
    (folder / "bee" / "again").symlink_to(folder / "bee")
    return "again is a link to a folder"


def a_link_to_nothing(folder):
    (folder / "bee" / "gone.png").symlink_to("nowhere")
    return "leads nowhere"


def a_link_to_itself(folder):
    (folder / "bee" / "self.png").symlink_to("self.png")
    return "leads nowhere"


def one_class(folder):
    for name in ("bee", "cat"):
        (folder / name).rename(folder.parent / name)
    return "only the folder 'ant'; expected one folder of pictures for each class"


def no_class(folder):
    for name in ("ant", "bee", "cat"):
        (folder / name).rename(folder.parent / name)
    return "has no folder; expected"


def a_name_that_clears_the_screen(folder):
    (folder / "bee").rename(folder / "be\x1b[2Je\n")
    return r"cannot be printed; rename it"


def absent(folder):
    folder.rename(folder.parent / "elsewhere")
    return r"no folder at .*; set data\.path"


def a_file_for_the_folder(folder):
    absent(folder)
    folder.write_bytes(b"x")
    return r"no folder at .*; set data\.path"


DAMAGES = [
    truncated,
    flipped,
    a_text,
    a_program,
    a_bomb,
    a_smaller_bomb,
    a_folder_for_a_picture,
    an_empty_class,
    a_pipe,
    a_class_elsewhere,
    a_picture_elsewhere,
    a_loop,
    a_link_to_nothing,
    a_link_to_itself,
    one_class,
    no_class,
    a_name_that_clears_the_screen,
    absent,
    a_file_for_the_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_picture_or_not_in_the_folder_is_refused_in_words(folder, damage):
    """Broken: hostile or damaged files would crash, hang, fill the memory, or bring other files of the disk in."""
    message = damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        load(folder, size=6)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damage", [a_text, a_bomb, an_empty_class, a_class_elsewhere, absent])
def test_the_command_line_says_it_in_one_line(folder, damage, capsys):
    """Broken: a user would see a traceback, or another exit code."""
    damage(folder)
    arguments = ["run", "--data", "imagefolder", "--set", "data.path=pictures", "--data-root", str(folder.parent)]
    assert invoke([*arguments, "--dry-run"]) == 4
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_a_link_inside_the_folder_is_followed(folder):
    """Broken: a user who shares a file between classes could not use the folder."""
    (folder / "bee" / "linked.png").symlink_to(folder / "ant" / "000.png")
    assert sum(load(folder).class_counts()) + len(load(folder).test) == 19


def test_more_than_memory_may_hold_is_refused_before_it_is_read(folder, monkeypatch):
    """Broken: a folder of photographs would take all memory."""
    monkeypatch.setattr(_pictures, "MAX_TOTAL", 1000)
    with pytest.raises(DataError, match=r"18 images of 7×5 pixels.*choose a smaller data\.size"):
        load(folder)
    monkeypatch.setattr(picture_files, "MAX_BYTES", 50)
    with pytest.raises(DataError, match=r"000\.png was refused: a picture of more than"):
        load(folder)


def test_every_cut_of_a_picture_is_read_or_refused_in_words(folder):
    """Broken: half a picture would be used, or end in a traceback."""
    path = folder / "ant" / "000.png"
    whole, (expected, _), refused = path.read_bytes(), everything(load(folder)), 0
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        try:
            found, _ = everything(load(folder))
        except DataError as error:
            refused += 1
            assert "000.png was refused" in str(error)
        else:
            assert torch.equal(found, expected)
    assert refused > 20


def copies(folder, *places):
    """The three class folders, moved to each of some places below the folder."""
    for name in ("ant", "bee", "cat"):
        for place in places:
            shutil.copytree(folder / name, folder / place / name)
        shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("train", "test"),
    [("training", "testing"), ("Train", "Val"), ("TRAIN", "valid"), ("tr", "tst"), ("train_set", "test_set"),
     ("train2017", "val2017"), ("train", "dev")],
)  # fmt: skip
def test_the_usual_spellings_of_splits_are_the_splits(folder, train, test):
    """Broken: a network would learn to tell training from test images."""
    copies(folder, train, test)
    splits = load(folder)
    assert splits.class_names == ("ant", "bee", "cat") and splits.class_counts() == (6, 6, 6) and len(splits.test) == 18
    said = f"{test}/ is the test split, since there is no folder test/"
    assert splits.notes == ((said,) if test in ("Val", "valid", "val2017", "dev") else ())


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_a_validation_folder_beside_train_and_test_is_the_validation_split(folder, name):
    """Broken: validation images would be passed over, or taken for test images."""
    copies(folder, "train", "test", name)
    for path in (folder / name).rglob("*.png"):
        Image.new("RGB", (5, 7), "red").save(path)
    splits = load(folder, validation=0.5)
    assert len(splits.train.labels) == len(splits.validation.labels) == len(splits.test) == 18
    assert set(splits.validation.images[:, 0].flatten().tolist()) == {255}
    assert splits.notes == (f"{name}/ is the validation split; data.validation is not used",)
    shutil.rmtree(folder / name / "bee")
    with pytest.raises(DataError, match=rf"'bee' is in train/ but not in {name}/"):
        load(folder)


def test_two_folders_for_one_split_are_refused(folder):
    """Broken: half of the test images would be passed over."""
    copies(folder, "train", "test", "testing")
    with pytest.raises(DataError, match=r"test/ and testing/ may both be the test split; rename one"):
        load(folder)


def test_folders_beside_the_splits_are_named(folder):
    """Broken: a second part of the training images would be passed over without a word."""
    copies(folder, "train", "test", "extra")
    assert load(folder).notes == ("folders beside those of the splits are passed over: extra",)


@pytest.mark.parametrize(
    "places",
    [
        ("fold1", "fold2"),
        ("images/train", "images/val", "labels/train", "labels/val"),
        ("test", "val"),
        ("train", "extra"),
    ],
)
def test_folders_that_all_hold_the_same_folders_are_refused_with_the_layout(folder, places):
    """Broken: parts of a data set would be learned as its classes."""
    copies(folder, *places)
    with pytest.raises(DataError, match=r"are no classes; expected one folder of pictures for each class, or train/"):
        load(folder)


def test_splits_below_the_classes_or_without_classes_are_refused(folder):
    """Broken: test images would be trained on, or splits be classes."""
    flat = folder.parent / "flat"
    for split in ("train", "Test"):
        shutil.copytree(folder / "ant", flat / split)
    with pytest.raises(DataError, match="no classes"):
        load(flat)
    for name in ("ant", "bee", "cat"):
        for split in ("train", "val"):
            shutil.copytree(folder / name, folder / f"{name}s" / split)
        shutil.rmtree(folder / name)
    with pytest.raises(DataError, match=r"each of which has train/, val/ …\), which are no classes"):
        load(folder)


def test_a_class_may_be_called_like_a_split(folder):
    """Broken: pictures of trains would be refused."""
    (folder / "bee").rename(folder / "train")
    (folder / "cat").rename(folder / "test")
    assert load(folder).class_names == ("ant", "test", "train")


def test_numbered_folders_are_in_the_order_of_their_numbers(folder):
    """Broken: folder 10 would be class 2."""
    for number in range(12):
        shutil.copytree(folder / ("ant", "bee", "cat")[number % 3], folder / str(number))
    for name in ("ant", "bee", "cat"):
        shutil.rmtree(folder / name)
    splits = load(folder)
    assert splits.class_names == tuple(map(str, range(12))) and splits.notes == ()
    whole, labels = everything(splits)
    bees = {np.asarray(Image.open(p)).transpose(2, 0, 1).tobytes() for p in (folder / "10").glob("*.png")}
    assert {np.ascontiguousarray(i).tobytes() for i in whole[labels == 10].numpy()} == bees
    (folder / "0").rename(folder / "12")
    found = load(folder)
    assert found.class_names == tuple(map(str, range(1, 13))) and "'2' before '10'" in found.notes[0]
    with pytest.raises(OptionError, match="class number 2"):
        load(folder).narrowed(classes=(2, 3), validation_fraction=0.1, seed=0)
    shutil.copytree(folder / "1", folder / "01")
    with pytest.raises(DataError, match="'01' and '1' hold the same number"):
        load(folder)
