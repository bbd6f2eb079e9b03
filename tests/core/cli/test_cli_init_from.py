"""`ddfw run --init-from`: a run starts from a set that is there."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ddfw as package

STORED = ("params", "images", "labels")


@pytest.fixture(scope="module")
def start(finished, tiny, tmp_path_factory):
    """Words of a run without outer steps in a copy of the finished run's expert cache; plain pixels if asked."""
    experts = shutil.copytree(finished.experts, tmp_path_factory.mktemp("begun") / "experts")
    words = [w for w in tiny if w != "--set=outer.steps=3"]

    def make(*more, pixel=True, steps=0):
        kept = [w for w in words if not pixel or w not in ("--param", "lss", "--set=param.rank=4")]
        method = ["--param", "pixel", "--labels", "hard"] if pixel else []
        return [*kept, *method, "--experts-dir", experts, "-q", f"--set=outer.steps={steps}", *more]

    return make


@pytest.fixture
def begun(ddfw, start, here):
    """A run that starts from a set, as it lies on disk and as it loads."""

    def run(source, *more, out="begun", **options):
        said = ddfw(*start("--init-from", source, "--out", here / out, *more, **options))
        assert said.code == 0, said.err
        return SimpleNamespace(out=here / out, learned=package.load(here / out))

    return run


@pytest.fixture(scope="module")
def sources(ddfw, start, tmp_path_factory):
    """Runs of plain pixels that have learned a little: in standardised and in whitened space."""
    place = tmp_path_factory.mktemp("sources")
    for space in ("standard", "zca"):
        said = ddfw(*start(f"--set=data.space={space}", "--out", place / space, steps=2))
        assert said.code == 0, said.err
    return place


def stored(run, name):
    return (run / "synthetic" / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize("pixel", [False, True])
def test_without_steps_a_run_reproduces_the_one_it_starts_from(begun, finished, sources, pixel):
    """Broken: going on with a run would start from something else than what it had learned."""
    before = sources / "standard" if pixel else finished.out
    for number, source in enumerate((before, before / "synthetic")):
        again = begun(source, pixel=pixel, out=f"again-{number}")
        for name in STORED:
            assert stored(again.out, name) == stored(before, name), name
        old = json.loads((before / "synthetic" / "card.json").read_text())
        assert again.learned.step_size == old["step_size"] and again.learned.card["floats"] == old["floats"]
        assert again.learned.step == 0
        figures = [json.loads((run / "eval" / "distilled.json").read_text()) for run in (again.out, before)]
        assert figures[0]["accuracies"] == figures[1]["accuracies"] and figures[0]["lr"] == figures[1]["lr"]


def test_another_run_seed_changes_nothing_about_what_is_taken_over(begun, finished):
    """Broken: the set would be mixed with random images."""
    assert stored(begun(finished.out, "--seed", "7", pixel=False).out, "params") == stored(finished.out, "params")


def test_with_steps_a_run_goes_on(begun, finished):
    """Broken: the set would be kept as it is, or the run begin anew."""
    on = begun(finished.out, "--set=eval.every=1", pixel=False, steps=1)
    assert "init_from" in (on.out / "config.toml").read_text()
    first = package.load(finished.out)
    if on.learned.step:
        assert not torch.equal(on.learned.images, first.images)
        assert float((on.learned.images - first.images).abs().max()) < 1
    else:
        assert torch.equal(on.learned.images, first.images)


def test_the_same_command_finds_its_run_finished(ddfw, start, sources, here):
    """Broken: a run that starts from a set would be repeated for ever."""
    words = start("--init-from", sources / "standard", "--out", here / "run")
    assert ddfw(*words).code == 0
    assert "nothing to do" in ddfw(*words).err


@pytest.mark.parametrize("form", ["safetensors", "npz", "mtt"])
def test_an_export_gives_its_images(ddfw, begun, sources, here, form):
    """Broken: a set that was handed on could not be gone on with."""
    assert ddfw("export", sources / "standard", "--format", form, "--out", here / "set").code == 0
    found, before = begun(here / "set").learned, package.load(sources / "standard")
    torch.testing.assert_close(found.images, before.images, rtol=0, atol=0)
    assert torch.equal(found.targets, before.targets)


def test_bare_pt_files_give_their_images_in_the_order_of_the_classes(begun, sources, here):
    """Broken: images would get the labels of others."""
    before = package.load(sources / "standard").images
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    (here / "bare").mkdir()
    torch.save(before[order], here / "bare" / "images_best.pt")
    torch.save(order, here / "bare" / "labels_best.pt")
    for number, source in enumerate((here / "bare", here / "bare" / "images_best.pt")):
        assert torch.equal(begun(source, out=f"begun-{number}").learned.images, before)


def test_a_folder_of_pictures_gives_its_images(begun, here):
    """Broken: people could not start from pictures of their own."""
    arrays = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
    for label, array in enumerate(arrays):
        (here / "pictures" / str(label)).mkdir(parents=True)
        Image.fromarray(array).save(here / "pictures" / str(label) / "0.png")
    found = begun(here / "pictures").learned
    np.testing.assert_allclose(found.space.decode(found.images).numpy()[:, 0], arrays / 255, atol=1e-5)
    assert found.targets.argmax(dim=1).tolist() == list(range(10))


def test_a_single_image_of_a_class_fills_its_places(begun, sources):
    """Broken: a set with fewer images than the new one has places could not be started from."""
    found, before = begun(sources / "standard", "--ipc", "2").learned, package.load(sources / "standard")
    assert torch.equal(found.images, before.images.repeat_interleave(2, dim=0))


@pytest.mark.parametrize(("one", "other"), [("zca", "standard"), ("standard", "zca")])
def test_a_run_in_another_training_space_gives_the_same_pixels(begun, sources, one, other):
    """Broken: whitened values would be taken for standardised ones."""
    found = begun(sources / one, f"--set=data.space={other}").learned
    before = package.load(sources / one)
    assert found.space.kind == other
    shown, there = found.space.decode(found.images), before.space.decode(before.images)
    torch.testing.assert_close(shown, there, rtol=0, atol=1e-3)
    assert not torch.allclose(found.images, before.images, atol=1e-2)


def test_whitening_that_was_fitted_to_other_images_is_another_space(begun, sources):
    """Broken: two whitenings look alike in their cards; values of one would be taken for values of the other."""
    found = begun(sources / "zca", "--set=data.space=zca", "--set=data.per_class=30").learned
    before = package.load(sources / "zca")
    assert not torch.equal(found.space.tensors()["mean"], before.space.tensors()["mean"])
    shown, there = found.space.decode(found.images), before.space.decode(before.images)
    torch.testing.assert_close(shown, there, rtol=0, atol=1e-3)


def test_a_set_without_some_class_is_refused(ddfw, start, here):
    """Broken: a class would be made of nothing, or the run end in an internal error."""
    (here / "bare").mkdir()
    torch.save(torch.randn(9, 1, 8, 8), here / "bare" / "images_best.pt")
    torch.save(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9]), here / "bare" / "labels_best.pt")
    ddfw(*start("--init-from", here / "bare", "--out", here / "run")).refused(2, "outer.init_from", "8")


def test_what_does_not_fit_or_is_not_there_is_a_data_error(ddfw, start, here):
    """Broken: a mistyped path would be an internal error."""
    (here / "bare").mkdir()
    torch.save(torch.randn(10, 3, 8, 8), here / "bare" / "images_best.pt")
    torch.save(torch.arange(10), here / "bare" / "labels_best.pt")
    text = ddfw(*start("--init-from", here / "bare", "--out", here / "run")).refused(4, "(3, 8, 8)", "(1, 8, 8)")
    assert len(text.splitlines()) == 1
    assert len(ddfw(*start("--init-from", "nowhere", "--out", here / "run")).refused(4, "nowhere").splitlines()) == 1
    (here / "file.txt").write_text("x")
    ddfw(*start("--init-from", here / "file.txt", "--out", here / "run")).refused(4, "file.txt")


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_wrong_path_is_noticed_before_an_expert_is_trained(ddfw, start, here, words):
    """Broken: a typing error would cost the hours that experts take, and `--dry-run` would find everything in order."""
    said = ddfw(*start("--init-from", "nowhere", "--out", here / "run", "--experts-dir", here / "fresh", *words))
    said.refused(4, "nowhere")
    assert not (here / "fresh").exists()


def test_a_damaged_run_is_not_started_from(ddfw, start, sources, here):
    """Broken: damage would go on living in the next set."""
    for name in STORED:
        run = shutil.copytree(sources / "standard", here / name)
        path = run / "synthetic" / f"{name}.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))
        ddfw(*start("--init-from", run, "--out", here / "run")).refused(4, f"{name}.safetensors", "damaged")


def test_how_classes_were_matched_is_said_before_the_run(ddfw, start, sources, here):
    """Broken: a run would start from images of other classes, and nobody could tell."""
    for label in range(10):
        (here / "pictures" / f"x{label}").mkdir(parents=True)
        array = np.random.default_rng(label).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(array).save(here / "pictures" / f"x{label}" / "0.png")
    (here / "bare").mkdir()
    torch.save(package.load(sources / "standard").images, here / "bare" / "images_best.pt")
    torch.save(torch.arange(10), here / "bare" / "labels_best.pt")
    for number, (source, words) in enumerate(
        (
            (sources / "standard", "its classes have the names and the order of the data set's"),
            (here / "bare", "it names no classes: its class 0 is 0, and so on"),
            (here / "pictures", "its classes have other names; they were matched in order ('x0' is '0', "),
        )
    ):
        command = [w for w in start("--init-from", source, "--out", here / f"run-{number}") if w != "-q"]
        said = ddfw(*command)
        assert said.code == 0, said.err
        assert f"outer.init_from: {words}" in said.err
