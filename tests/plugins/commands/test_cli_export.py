"""`ddfw export`: what is written gives the run's own figures again, whole or not at all."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

import ddfw as package
from ddfw.artifacts import atomic
from ddfw.artifacts.synthetic import sealed_card

FORMATS = ("safetensors", "npz", "mtt", "imagefolder")
KINDS = ("plain", "zca", "pixel")


def tables(folder):
    return json.loads((folder / "eval" / "distilled.json").read_text())


@pytest.fixture(scope="module")
def runs(finished, ddfw, tiny, tmp_path_factory):
    """The finished run, one in whitened space, and one of plain pixels with hard labels; each with its exports."""
    place = tmp_path_factory.mktemp("kinds")
    more = {"zca": ["--set=data.space=zca"], "pixel": ["--param", "pixel", "--labels", "hard"]}
    found, experts = {"plain": finished.out}, shutil.copytree(finished.experts, place / "experts")
    for name, words in more.items():
        start = [w for w in tiny if name != "pixel" or w not in ("--param", "lss", "--set=param.rank=4")]
        said = ddfw(*start, *words, "--out", place / name, "--experts-dir", experts, "-q")
        assert said.code == 0, said.err
        found[name] = place / name
    exports = {}
    for name, run in found.items():
        for form in FORMATS:
            exports[name, form] = place / f"{name}-{form}"
            said = ddfw("export", run, "--format", form, "--out", exports[name, form], "--json")
            assert said.code == 0, said.err
            assert said.events[0]["folder"] == str(exports[name, form])
    return SimpleNamespace(runs=found, exports=exports)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", ["safetensors", "npz", "mtt"])
def test_an_export_has_the_accuracies_of_its_run(ddfw, runs, name, form):
    """Broken: what others are given would not be what the paper's table says."""
    said = ddfw("eval", runs.exports[name, form], "--like", runs.runs[name], "--json")
    assert said.code == 0, said.err
    (record,), before = said.events, tables(runs.runs[name])
    for key in ("accuracies", "lr", "step", "floats", "images", "selected_by", "subject"):
        assert record[key] == before[key], key


@pytest.mark.parametrize("name", KINDS)
def test_bare_pt_files_have_the_accuracies_of_their_run(ddfw, runs, name, here):
    """Broken: sets of other programs, which have no card, would be judged in another training space."""
    bare = shutil.copytree(runs.exports[name, "mtt"], here / "bare")
    for extra in ("card.json", "space.safetensors"):
        (bare / extra).unlink(missing_ok=True)
    for subject in (bare, bare / "images_best.pt"):
        said = ddfw("eval", subject, "--like", runs.runs[name], "--json")
        assert said.code == 0, said.err
        (record,) = said.events
        assert record["accuracies"] == tables(runs.runs[name])["accuracies"]
        assert record["subject"] == "given" and any("not known" in note for note in record["notes"])


@pytest.mark.parametrize("name", KINDS)
def test_the_pt_files_are_what_other_programs_expect(runs, name):
    """Broken: `torch.load` of MTT or DATM would meet something else."""
    folder, learned = runs.exports[name, "mtt"], package.load(runs.runs[name])
    images, labels, lr = (
        torch.load(folder / f"{what}_best.pt", weights_only=True) for what in ("images", "labels", "lr")
    )
    assert torch.equal(images, learned.images) and images.dtype == torch.float32
    if name == "pixel":
        assert labels.dtype == torch.int64 and labels.tolist() == list(range(10))
    else:
        assert labels.shape == (20, 10) and torch.equal(labels, learned.targets)
    assert float(lr) == learned.step_size == tables(runs.runs[name])["lr"]


@pytest.mark.parametrize("name", KINDS)
def test_every_export_loads_as_its_run_does(runs, name):
    """Broken: a training loop for runs would not work for their exports."""
    before = package.load(runs.runs[name])
    for form in FORMATS:
        again = package.load(runs.exports[name, form])
        assert torch.equal(again.targets, before.targets) and again.step_size == before.step_size
        assert again.space.record() == before.space.record()
        for key, matrix in before.space.tensors().items():
            assert torch.equal(again.space.tensors()[key], matrix)
        if form != "imagefolder":
            assert torch.equal(again.images, before.images)
        assert bool(again.images.isfinite().all())
        assert again.network(1)(again.images).shape == again.targets.shape


@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_every_space_cost_what_their_card_says(runs, name):
    """Broken: users of the pictures would not know how far they are from what was judged."""
    folder = runs.exports[name, "imagefolder"]
    stated = json.loads((folder / "card.json").read_text())["export"]["rounding"]
    error = (package.load(folder).images - package.load(runs.runs[name]).images).abs()
    assert stated["largest"] == pytest.approx(float(error.max()), rel=1e-3, abs=1e-6)
    assert stated["root_mean_square"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-3, abs=1e-6)


def test_without_out_an_export_lies_in_its_run_which_stays_finished(ddfw, finished, here):
    """Broken: nobody would find it, or the run would count as changed."""
    run = shutil.copytree(finished.out, here / "copy")
    said = ddfw("export", run, "--format", "npz")
    assert said.code == 0 and str(run / "export" / "npz") in said.out
    assert {p.name for p in (run / "export" / "npz").iterdir()} == {"card.json", "set.npz"}
    arguments = [run if a == str(finished.out) else a for a in finished.arguments]
    assert "nothing to do" in ddfw(*arguments).err
    ddfw("export", run, "--format", "npz").refused(1, "there already")
    assert ddfw("eval", run, "--json").code == 0


@pytest.mark.parametrize("form", FORMATS)
def test_an_out_that_holds_something_is_refused_and_untouched(ddfw, finished, here, form):
    """Broken: somebody's files would be lost."""
    (here / "mine").mkdir()
    (here / "mine" / "card.json").write_text("mine")
    ddfw("export", finished.out, "--format", form, "--out", here / "mine").refused(1, "mine", "--out")
    assert (here / "mine" / "card.json").read_text() == "mine"
    assert [p.name for p in here.rglob("*")] == ["mine", "card.json"]


def test_the_folder_that_one_stands_in_is_an_out_like_any_other(ddfw, finished, here, monkeypatch):
    """Broken: `--out .` would be an internal error."""
    (here / "stood-in").mkdir()
    monkeypatch.chdir(here / "stood-in")
    said = ddfw("export", finished.out, "--format", "npz", "--out", ".")
    assert said.code in (0, 1, 2), said.err
    if said.code == 0:
        assert package.load(here / "stood-in").step == package.load(finished.out).step


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_leaves_nothing_behind(ddfw, finished, here, monkeypatch, form):
    """Broken: half an export would be taken for a whole one."""

    def full(path, *arguments):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(atomic, "write_json", full)
    ddfw("export", finished.out, "--format", form, "--out", here / "set").refused(74, "No space left")
    assert list(here.iterdir()) == []


def test_what_is_no_learned_set_is_not_exported(ddfw, finished, here):
    """Broken: a wrong path or a damaged run would be exported as if it were one."""
    ddfw("export", here / "none", "--format", "npz", "--out", here / "set").refused(4, "none")
    run = shutil.copytree(finished.out, here / "copy")
    path = run / "synthetic" / "images.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    ddfw("export", run, "--format", "npz", "--out", here / "set").refused(4, "images.safetensors")
    assert not (here / "set").exists()
    ddfw("export", finished.out, "--format", "tar").refused(2, "npz")
    ddfw("export", finished.out, "--format", "nqz").refused(2, "Did you mean 'npz'?")


@pytest.mark.parametrize("name", ["typo", "synthetic/typo", "config.toml"])
def test_a_path_that_is_not_there_is_not_taken_for_its_folder(ddfw, runs, here, name):
    """Broken: whatever name one mistypes inside of a run would be the run."""
    ddfw("export", runs.runs["plain"] / name, "--format", "npz", "--out", here / "set").refused(4, name)
    assert list(here.iterdir()) == []


def test_an_export_can_be_exported_again(ddfw, runs, here):
    """Broken: whoever was given one format could not have another one."""
    said = ddfw("export", runs.exports["plain", "npz"], "--format", "mtt", "--out", here / "again")
    assert said.code == 0, said.err
    assert torch.equal(package.load(here / "again").images, package.load(runs.runs["plain"]).images)


def test_an_export_in_a_format_that_no_plugin_reads_is_a_matter_of_plugins(ddfw, runs, here):
    """Broken: the user would look for damage in the files, and not for the plugin that is missing."""
    folder = shutil.copytree(runs.exports["plain", "npz"], here / "set")
    card = {key: value for key, value in json.loads((folder / "card.json").read_text()).items() if key != "card_sha256"}
    (folder / "card.json").write_text(json.dumps(sealed_card({**card, "format": "tar"})))
    for command in (("eval", folder), ("export", folder, "--format", "mtt", "--out", here / "other")):
        ddfw(*command).refused(3, "'tar'", "no installed plugin reads", "ddfw plugins")
    assert [p.name for p in here.iterdir()] == ["set"]


def test_a_second_export_names_force_and_force_replaces_it(ddfw, runs, here):
    """Broken: whoever exports again is left alone, or loses something by it."""
    run, words = runs.runs["plain"], ("--format", "imagefolder", "--out", here / "set")
    first = ddfw("export", run, *words)
    assert first.code == 0 and "labels.json" in first.err  # soft labels, which folders cannot say
    ddfw("export", run, *words).refused(1, str(here / "set"), "--force")
    assert ddfw("export", runs.runs["pixel"], *words, "--force").code == 0
    assert not (here / "set" / "labels.json").exists() and len(list(here.iterdir())) == 1
    ddfw("export", run, "--format", "npz", "--out", run, "--force").refused(1, "something else than an export")
    ddfw("export", run, "--format", "zip").refused(2, "'zip'", "imagefolder", "npz")
