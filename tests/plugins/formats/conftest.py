"""What version 0.1 learned, written in every format, and files as other programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import ddfw
from ddfw.config.extensions import formats

RUN = Path(__file__).parents[2] / "fixtures" / "v0_1" / "run"


@pytest.fixture(scope="session")
def learned():
    """A tiny learned set: 20 grey 8×8 images with soft labels."""
    return ddfw.load(RUN)


@pytest.fixture(scope="session")
def exported(learned, tmp_path_factory):
    """A folder for each format."""
    place = tmp_path_factory.mktemp("exports")
    for form in formats().entries:
        ddfw.export(learned, form, place / form)
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


@pytest.fixture
def picture():
    """Writes one picture of a single colour."""

    def write(path, size=(8, 8), mode="L", value=128):
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = value if mode in ("L", "I;16") else (value, value, value, 255)[: len(mode)]
        Image.new(mode, size, colour).save(path)

    return write
