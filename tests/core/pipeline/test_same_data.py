"""A run belongs to the bytes of its data and of the set that it started from, not to the names of their files."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddfw.artifacts.synthetic import sealed_card

SWEEP = """
[base]
data = { name = "npz", path = "data.npz" }
model = { depth = 2, width = 4 }
experts = { count = 2, epochs = 3 }
outer = { steps = 1, syn_steps = 2 }
window = { max_start = 1 }
param = { name = "lss", rank = 4 }
executor = { threads = 1 }
eval = { networks = 2, epochs = 1, every = 1, select_networks = 1, baselines = [] }
"""


@pytest.fixture
def data(here, two_archives):
    """A file data.npz, and what to do to its training images or to its test labels."""
    shutil.copy(two_archives[0], "data.npz")

    def train() -> None:
        with np.load("data.npz") as file:
            arrays = dict(file)
        arrays["train_images"][0, 0, 0] += 1
        np.savez("data.npz", **arrays)

    return SimpleNamespace(change_train=train, change_test=lambda: shutil.copy(two_archives[1], "data.npz"))


@pytest.fixture
def command(tiny):
    """A run of that file."""
    places = ["--out", "run", "--experts-dir", "experts"]
    return [
        *tiny,
        "--data",
        "npz",
        "--set=data.path=data.npz",
        "--set=outer.steps=2",
        "--set=eval.baselines=[]",
        *places,
    ]


def test_a_run_of_other_data_is_not_called_finished(ddfw, data, command):
    """Broken: a table of a file that is gone would be printed for the file of its name."""
    assert ddfw(*command).code == 0
    assert "nothing to do" in ddfw(*command).err
    data.change_train()
    ddfw(*command).refused(1, "training or validation images or labels changed since", "put the old ones back", "--out")
    data.change_test()
    ddfw(*command).refused(1, "test images or labels changed since", "sha256")


def test_a_stopped_run_does_not_go_on_with_another_test_split(ddfw, data, command, here):
    """Broken: half of a run's figures would be of one test split and half of another."""
    while not (here / "run" / "checkpoints" / "latest.json").exists():  # the first experts, then the first step
        assert ddfw(*command, "--max-time", "0.001").code == 75
    before = {name: (here / name).read_bytes() for name in ("run/checkpoints/latest.json", "run/config.toml")}
    data.change_test()
    said = ddfw(*command)
    assert said.code == 1 and "test data" in said.err and "rm -r" in said.err
    assert before == {name: (here / name).read_bytes() for name in before}


def test_the_set_to_start_from_is_all_that_is_taken_from_it(ddfw, tiny, here, finished):
    """Broken: a run that started from other labels or another step size would count as this one."""
    assert ddfw("export", finished.out, "--format", "safetensors", "--out", "start").code == 0
    command = [
        *tiny,
        "--set=eval.baselines=[]",
        "--init-from",
        "start",
        "--out",
        "b",
        "--experts-dir",
        finished.experts,
    ]
    assert ddfw(*command).code == 0
    assert "nothing to do" in ddfw(*command).err
    card = json.loads((here / "start" / "card.json").read_text())
    del card["card_sha256"]
    (here / "start" / "card.json").write_text(json.dumps(sealed_card({**card, "step_size": 0.5}), indent=2) + "\n")
    ddfw(*command).refused(1, "set to start from, at ", "start, changed since")


def test_a_picture_of_a_folder_is_part_of_the_data(ddfw, tiny, here):
    """Broken: a picture that was drawn over would change nothing."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            (folder := here / "pictures" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    where = ["--data", "imagefolder", "--set=data.path=pictures", "--out", "run", "--experts-dir", "experts"]
    small = ["--set=outer.steps=1", "--set=eval.baselines=[]", "--set=data.validation=0.25", "--set=data.size=8"]
    command = [*tiny, *where, *small]
    said = ddfw(*command)
    assert said.code == 0, said.err
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "0.png")
    ddfw(*command).refused(1, "test images or labels changed since")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("sweep", "[grid]\nouter.step_size = [0.01]\n" + SWEEP),
        ("compare", "[comparison]\nseeds = [0]\n" + SWEEP + "[variants.spaces]\ntitle = 'spaces'\n"),
    ],
)
def test_sweeps_and_comparisons_do_not_mix_data(ddfw, data, here, word, text):
    """Broken: the winner of a sweep could be one of other data than all the rest."""
    (here / "mine.toml").write_text(text)
    command = [word, "mine.toml", "--out", "all", "--experts-dir", "experts", "--quiet"]
    assert (said := ddfw(*command)).code == 0, said.err
    data.change_test()
    ddfw(*command).refused(1, "test images or labels changed since")
