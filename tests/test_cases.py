"""The inputs of ../shared/cases, each with the command of its table and what is right there; real 8×8 images."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "shared" / "cases"
LETTERS = json.dumps(list("abcdefghijkl"))
#: Shorter than the table's runs where figures do not matter.
SHORT = ["--set=outer.steps=1", "--set=eval.epochs=1", "--set=eval.full_epochs=1", "--set=eval.baselines=[]"]


@pytest.fixture
def case(plain_terminal, here, ddfw):
    """Runs a command in a folder of its own that holds the inputs that it names."""
    if not (CASES / "tiny.toml").is_file():
        pytest.skip("the folder ../shared/cases is not there")

    def run(*words, inputs=()):
        for name in ("tiny.toml", *inputs):
            if (CASES / f"{name}.tar.xz").is_file():
                with tarfile.open(CASES / f"{name}.tar.xz") as archive:
                    # Python before 3.11.4 has neither this filter nor the argument for one.
                    archive.extraction_filter = getattr(tarfile, "data_filter", None)
                    archive.extractall(here)
            else:
                shutil.copy(CASES / name, here / name)
        return ddfw(*words)

    return run


def learn(*words, data=None):
    return ["run", "tiny.toml", *(["--data", data] if data else []), *words, "--out", "run", *SHORT]


@pytest.mark.parametrize(
    ("folder", "counts", "note"),
    [
        ("mp", "30 training, 10 validation, 40 test images of 10 classes", ""),
        ("rf", "30 training, 10 validation, 40 test images of 10 classes", "valid/ is the test split"),
    ],
)
def test_folders_of_splits_are_no_classes(case, folder, counts, note):
    """Broken: a network learns to tell training from test images, of two classes."""
    said = case(*learn("--set", f"data.path={folder}", data="imagefolder"), inputs=["split_folders"])
    assert said.code == 0, said.err
    assert counts in said.err and note in said.err


def test_a_validation_part_is_the_validation_split(case):
    """Broken: the part that was made for selection is passed over."""
    words = learn("--set", "data.path=medstyle.npz", data="npz")
    said = case(*words, inputs=["medstyle.npz"])
    assert said.code == 0, said.err
    assert "500 training, 200 validation, 200 test" in said.err and "has a validation split, which is used" in said.err


def test_numbered_class_folders_are_the_labels(case):
    """Broken: folders 0 … 11 in text order give chance accuracy, 14 %, where padded ones give 70 %."""
    like = [
        "--like",
        "tiny.toml",
        "--data",
        "npz",
        "--set",
        "data.path=c12.npz",
        "--set",
        f"data.class_names={LETTERS}",
    ]
    found = {}
    for name in ("pic_int", "pic_pad"):
        said = case("eval", name, *like, "--set", "eval.epochs=60", "--json", inputs=["c12.npz", name])
        assert said.code == 0, said.err
        found[name] = said.events[-1]
    assert found["pic_int"]["accuracies"] == found["pic_pad"]["accuracies"] and found["pic_int"]["mean"] > 0.6
    assert any("taken as the labels ('0' is 'a', '1' is 'b'" in note for note in found["pic_int"]["notes"])


def test_a_run_that_starts_from_folders_says_how_their_classes_were_matched(case):
    """Broken: a run starts from images of other classes, without a word."""
    data = ["--set", "data.path=c12.npz", "--set", f"data.class_names={LETTERS}", "--init-from", "pic_int"]
    said = case(*learn(*data, data="npz"), inputs=["c12.npz", "pic_int"])
    assert said.code == 0, said.err
    assert "outer.init_from: its class names are whole numbers from 0, which were taken as the labels" in said.err


def test_a_number_that_is_also_a_name_is_refused_with_both_readings(case):
    """Broken: classes "10" and "2" are learned where 1 and 2 were asked for."""
    words = learn("--set", "data.path=f1to10", "--set", "data.classes=[1,2]", data="imagefolder")
    case(*words, inputs=["f1to10"]).refused(2, "data.classes", "named '1'", "class number 1", "'2'")


def test_splits_of_two_kinds_are_refused(case):
    """Broken: test images from 0 to 1 are read as black beside training images from 0 to 255."""
    words = learn("--set", "data.path=mixed.npz", data="npz")
    case(*words, inputs=["mixed.npz"]).refused(4, "uint8", "float32", "data.max_value")
    said = case(*words, "--set", "data.max_value=255")
    assert said.code == 0 and "the brightest test pixel is 1, the brightest training pixel" in said.err


def test_other_data_under_the_same_name_are_no_finished_run(case, here):
    """Broken: the table of the old file is shown for the new one."""
    words = learn("--set", "data.path=data.npz", data="npz")
    shutil.copy(CASES / "plain.npz", here / "data.npz")
    first = case(*words, inputs=["c12.npz"])
    assert first.code == 0, first.err
    again = case(*words)
    assert again.code == 0 and "nothing to do" in again.err
    shutil.copy(CASES / "missing_test.npz", here / "data.npz")
    changed = case(*words)
    assert changed.code == 1 and "Traceback" not in changed.err, changed.err
    assert "images or labels changed" in changed.err


def test_one_class_is_refused_when_the_data_are_loaded(case):
    """Broken: a run ends as diverged, with advice about learning rates."""
    for more in ((), ("--dry-run",)):
        words = learn("--set", "data.path=one.npz", *more, data="npz")
        case(*words, inputs=["one.npz"]).refused(4, "1 class", "two")


def test_classes_without_a_test_image_are_named(case):
    """Broken: an accuracy of five classes passes for one of ten."""
    said = case(*learn("--set", "data.path=missing_test.npz", data="npz"), inputs=["missing_test.npz"])
    assert said.code == 0, said.err
    assert "5 of 10 classes have no test image (classes 5, 6, 7, 8, 9)" in said.err


def test_a_column_of_labels_holds_class_numbers(case):
    """Broken: labels [n, 1] pass for logits of a single class."""
    said = case("eval", "g_col", "--like", "tiny.toml", "--data", "digits", "--json", inputs=["g_col"])
    assert said.code == 0, said.err
    assert said.events[-1]["mean"] > 0.2
    assert not any("softmax" in note for note in said.events[-1]["notes"])


def test_experts_that_stand_still_are_called_so(case):
    """Broken: a rate of nearly nothing is answered with advice about the outer loop."""
    said = case(*learn("--set", "experts.lr=1e-30", data="digits"))
    assert said.code == 5
    assert "experts.lr" in said.err
