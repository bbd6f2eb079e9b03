"""The picture of a synthetic set: a PNG with every image at its place, for any number of images and classes."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from ddfw.artifacts.pictures import write_grid


def draw(path, pixels, classes, per_class, names=None, title="t"):
    """Writes a grid with one-hot targets and opens it again."""
    targets = torch.eye(classes).repeat_interleave(per_class, dim=0)
    digest = write_grid(path, pixels, targets, per_class, names or [str(i) for i in range(classes)], title)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def plain(classes, per_class, side=8, channels=1, value=0.5):
    return torch.full((classes * per_class, channels, side, side), value)


def count(picture, colour):
    return int((picture == np.array(colour, dtype=np.uint8)).all(axis=2).sum())


def test_every_image_is_shown_with_its_own_colours(tmp_path):
    """Broken: pictures would show other values than the set holds; each pixel is a square of equal size."""
    pixels = torch.zeros(4, 3, 8, 8)
    pixels[0, 0] = pixels[1, 1] = pixels[2, 2] = 1.0
    pixels[3, 0, :, :4] = pixels[3, 1, :, 4:] = 1.0
    picture = draw(tmp_path / "p.png", pixels, 2, 2)
    whole = count(picture, (0, 0, 255))
    zoom = round((whole / 64) ** 0.5)
    assert zoom >= 1 and whole == 64 * zoom**2
    assert count(picture, (255, 0, 0)) == count(picture, (0, 255, 0)) == whole + whole // 2


@pytest.mark.parametrize("per_class", [2, 7])
def test_images_of_a_class_stand_in_one_line_in_their_order(tmp_path, per_class):
    """Broken: an image would stand beside another class's name."""
    colours = [(0, 0, 0)] * (2 * per_class)
    for i, colour in ((0, (255, 0, 0)), (1, (0, 255, 0)), (per_class, (0, 0, 255)), (per_class + 1, (255, 0, 255))):
        colours[i] = colour
    pixels = (torch.tensor(colours) / 255).view(-1, 3, 1, 1).expand(-1, -1, 8, 8)
    picture = draw(tmp_path / "p.png", pixels, 2, per_class)

    def centre(colour):
        rows, columns = np.nonzero((picture == np.array(colour, dtype=np.uint8)).all(axis=2))
        return np.array([rows.mean(), columns.mean()])

    a0, a1, b0, b1 = (centre(c) for c in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)])
    to_the_next_image, to_the_next_class = a1 - a0, b0 - a0
    assert np.array_equal(b1 - b0, to_the_next_image)
    assert sorted([*(to_the_next_image > 0), *(to_the_next_class > 0)]) == [False, False, True, True]
    assert to_the_next_image @ to_the_next_class == 0


@pytest.mark.parametrize("start", [2, 6])
def test_the_picture_grows_by_equal_cells(tmp_path, start):
    """Broken: images would overlap or fall off the edge."""
    for what, shapes in (
        ("class", [draw(tmp_path / "p.png", plain(start + i, start), start + i, start).shape for i in range(3)]),
        (
            "image",
            [draw(tmp_path / "p.png", plain(start, start + 5 + i), start, start + 5 + i).shape for i in range(3)],
        ),
    ):
        first, second = (np.subtract(b, a)[:2] for a, b in itertools.pairwise(shapes))
        assert np.array_equal(first, second), what
        assert sorted(first)[0] == 0 and sorted(first)[1] >= 64, what


def test_values_outside_black_and_white_are_clipped_and_the_set_is_left_alone(tmp_path):
    """Broken: learned images leave [0, 1], and wrapped values would show white as black."""
    pixels = torch.stack([torch.full((1, 8, 8), 7.0), torch.full((1, 8, 8), -3.0)])
    before = pixels.clone()
    picture = draw(tmp_path / "p.png", pixels, 2, 1)
    assert torch.equal(pixels, before)
    assert count(picture, (0, 0, 0)) == count(draw(tmp_path / "q.png", plain(1, 1, value=0.0), 1, 1), (0, 0, 0)) > 0


@pytest.mark.parametrize(("value", "byte"), [(0.0, 0), (0.2, 51), (0.6, 153)])
def test_grey_images_show_their_value_in_all_three_colours(tmp_path, value, byte):
    """Broken: one-channel sets would come out tinted, or too dark."""
    picture = draw(tmp_path / "p.png", plain(1, 1, value=value), 1, 1)
    shown = count(picture, (byte, byte, byte))
    assert shown >= 64 * 64


@pytest.mark.parametrize("channels", [1, 3])
def test_many_images_and_many_classes_are_cut_to_a_picture_of_bounded_size(tmp_path, channels):
    """Broken: two hundred classes or a hundred images of each would crash the run at its end, or fill the disk."""
    heights = [draw(tmp_path / "p.png", plain(m, 2, 4, channels), m, 2).shape[0] for m in (60, 200)]
    assert heights[0] == heights[1]
    widths = [draw(tmp_path / "p.png", plain(2, k, 4, channels), 2, k).shape[1] for k in (30, 100)]
    assert widths[0] == widths[1]


def test_more_images_than_are_shown_still_start_each_class_with_its_own(tmp_path):
    """Broken: the second class would go on with the first one's images."""
    per_class = 33
    pixels = torch.zeros(2 * per_class, 3, 4, 4)
    pixels[:per_class, 0] = 1.0
    pixels[per_class:, 2] = 1.0
    picture = draw(tmp_path / "p.png", pixels, 2, per_class)
    assert count(picture, (255, 0, 0)) == count(picture, (0, 0, 255)) > 0


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 16), (100, 60), (1, 1)])
def test_images_of_any_shape_keep_their_proportions(tmp_path, height, width):
    """Broken: rectangular or large images would be distorted or refused."""
    pixels = torch.zeros(1, 3, height, width)
    pixels[:, 0] = 1.0
    picture = draw(tmp_path / "p.png", pixels, 1, 1)
    rows, columns = np.nonzero((picture == np.array((255, 0, 0), dtype=np.uint8)).all(axis=2))
    zoom, rest = divmod(int(rows.max() - rows.min() + 1), height)
    assert rest == 0 and zoom >= 1
    assert int(columns.max() - columns.min() + 1) == width * zoom


def test_long_strange_and_empty_names_do_not_matter(tmp_path):
    """Broken: a data set with such class names could not finish a run."""
    names = ["a" * 300, "", "Übergröße ☂ 漢字", "two\nlines"]
    draw(tmp_path / "p.png", plain(4, 1), 4, 1, names=names, title="a title " * 40)


def test_soft_targets_with_ties_and_a_single_class_are_drawn(tmp_path):
    """Broken: a uniform label or a data set of one class would crash the caption."""
    write_grid(tmp_path / "p.png", plain(3, 1), torch.full((3, 3), 1 / 3), 1, ["x", "y", "z"], "t")
    write_grid(tmp_path / "q.png", plain(1, 1), torch.ones(1, 1), 1, ["x"], "t")
    with Image.open(tmp_path / "p.png") as three, Image.open(tmp_path / "q.png") as one:
        assert three.size[0] * three.size[1] > one.size[0] * one.size[1]


def test_the_same_set_gives_the_same_bytes(tmp_path):
    """Broken: the manifest's hash of the picture would differ between equal runs."""
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    draw(tmp_path / "a.png", pixels, 2, 2)
    draw(tmp_path / "b.png", pixels, 2, 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
