"""The picture of a synthetic set: a PNG with every image at its place, for any number of images and classes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from ddfw.artifacts.pictures import MAX_COLUMNS, MAX_ROWS, write_grid


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


def test_rows_are_classes_and_columns_are_images(tmp_path):
    """Broken: an image would stand beside another class's name."""
    pixels = torch.zeros(4, 3, 8, 8)
    for i, colour in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)]):
        pixels[i] = torch.tensor(colour).view(3, 1, 1).float()
    picture = draw(tmp_path / "p.png", pixels, 2, 2)

    def centre(colour):
        rows, columns = np.nonzero((picture == np.array(colour, dtype=np.uint8)).all(axis=2))
        return rows.mean(), columns.mean()

    (r0, c0), (r1, c1), (r2, c2), (r3, c3) = (centre(c) for c in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)])
    assert r0 == r1 < r2 == r3
    assert c0 == c2 < c1 == c3


def test_the_picture_grows_by_equal_cells(tmp_path):
    """Broken: images would overlap or fall off the edge."""
    one = draw(tmp_path / "a.png", plain(1, 2), 1, 2).shape
    two = draw(tmp_path / "b.png", plain(2, 2), 2, 2).shape
    three = draw(tmp_path / "c.png", plain(3, 2), 3, 2).shape
    wide = draw(tmp_path / "d.png", plain(1, 3), 1, 3).shape
    wider = draw(tmp_path / "e.png", plain(1, 4), 1, 4).shape
    assert three[0] - two[0] == two[0] - one[0] >= 64
    assert wider[1] - wide[1] == wide[1] - one[1] >= 64
    assert one[1] == two[1] == three[1]


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
    """Broken: a hundred classes with fifty images each would crash the run at its very end."""
    many = draw(tmp_path / "a.png", plain(MAX_ROWS + 60, 2, 4, channels), MAX_ROWS + 60, 2)
    full = draw(tmp_path / "b.png", plain(MAX_ROWS, 2, 4, channels), MAX_ROWS, 2)
    assert many.shape[0] == full.shape[0]
    wide = draw(tmp_path / "c.png", plain(2, MAX_COLUMNS + 34, 4, channels), 2, MAX_COLUMNS + 34)
    edge = draw(tmp_path / "d.png", plain(2, MAX_COLUMNS, 4, channels), 2, MAX_COLUMNS)
    assert wide.shape[1] == edge.shape[1]


def test_more_images_than_columns_still_start_each_row_with_its_class(tmp_path):
    """Broken: the second row would go on with the first class's images."""
    per_class = MAX_COLUMNS + 3
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
        assert three.size[1] > one.size[1]


def test_the_same_set_gives_the_same_bytes(tmp_path):
    """Broken: the manifest's hash of the picture would differ between equal runs."""
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    draw(tmp_path / "a.png", pixels, 2, 2)
    draw(tmp_path / "b.png", pixels, 2, 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
