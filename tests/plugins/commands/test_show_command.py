"""`ddfw show`: a run directory of version 0.1 with stored steps added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ddfw import load
from ddfw.artifacts.snapshots import Snapshot, write_snapshot
from ddfw.cli.main import invoke
from ddfw_plugins.commands.show import _blocks

STORED = Path(__file__).parents[2] / "fixtures" / "v0_1" / "run"


@pytest.fixture
def run(tmp_path):
    """The run, with its images after two outer steps: grey 0.25, labels half this class and half the next."""
    shutil.copytree(STORED, tmp_path / "run")
    targets = 0.5 * (torch.eye(10) + torch.eye(10).roll(1, dims=1))
    pixels = torch.full((10, 1, 8, 8), 0.25)
    write_snapshot(tmp_path / "run", Snapshot(pixels=pixels, targets=targets, per_class=1, of_per_class=2, step=2))
    return tmp_path / "run"


def shown(capsys, *arguments):
    assert invoke(["show", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_selected_step_is_shown_with_its_labels(run, capsys):
    """Broken: other images or labels are shown than `ddfw.load` gives."""
    facts, learned = shown(capsys, run), load(run)
    assert (facts["step"], facts["selected_step"], facts["stored_steps"]) == (learned.step, learned.step, [2])
    assert facts["images_per_class"] == 2
    labels = [image[0]["probability"] for c in facts["classes"] for image in c["labels"]]
    assert labels == pytest.approx(learned.targets.max(dim=1).values.tolist())


def test_a_class_and_a_stored_step_are_shown(run, capsys):
    """Broken: --class or --step shows something else."""
    facts = shown(capsys, run, "--class", "3", "--step", "2")
    assert facts["step"] == 2
    assert facts["range"] == [0.25, 0.25]
    (only,) = facts["classes"]
    assert [(label["name"], label["probability"]) for label in only["labels"][0]] == [("3", 0.5), ("4", 0.5)]


def test_a_step_that_is_not_kept_is_refused_with_those_that_are(run, capsys):
    """Broken: nobody learns which steps can be shown."""
    assert invoke(["show", str(run), "--step", "7"]) == 2
    assert "0, 2" in capsys.readouterr().err


def test_a_class_that_is_not_there_is_refused(run, capsys):
    """Broken: another class is shown, or an internal error."""
    assert invoke(["show", str(run), "--class", "12"]) == 2
    assert "0 to 9" in capsys.readouterr().err


def test_the_picture_of_one_class_is_a_png_with_less_in_it(run, tmp_path, capsys):
    """Broken: --out writes no picture, or all classes."""
    from PIL import Image

    assert invoke(["show", str(run), "--out", str(tmp_path / "new" / "all.png")]) == 0
    assert invoke(["show", str(run), "--class", "3", "--out", str(tmp_path / "one.png")]) == 0
    with Image.open(tmp_path / "new" / "all.png") as whole, Image.open(tmp_path / "one.png") as one:
        assert whole.format == one.format == "PNG"
        assert one.height < whole.height
    assert invoke(["show", str(run), "--out", str(tmp_path / "one.jpg")]) == 2


def test_a_run_without_images_says_so(run, capsys):
    """Broken: an internal error where a run has only begun."""
    for name in ("synthetic", "steps"):
        shutil.rmtree(run / name)
    assert invoke(["show", str(run)]) == 4
    assert "no images yet" in capsys.readouterr().err


def test_a_terminal_line_holds_two_rows_of_pixels():
    """Broken: pictures in the terminal are upside down, mixed or stretched."""
    image = torch.zeros(3, 16, 16)
    image[0, 0] = 1.0  # the first row is red
    image[2, 1] = 1.0  # the second one blue
    lines = _blocks(image)
    assert len(lines) == 8 and all(len(line) == 16 for line in lines)
    assert {str(span.style) for span in lines[0].spans} == {"rgb(255,0,0) on rgb(0,0,255)"}
    assert {str(span.style) for span in lines[1].spans} == {"rgb(0,0,0) on rgb(0,0,0)"}
