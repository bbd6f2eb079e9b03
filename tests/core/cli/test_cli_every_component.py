"""Every component once, small: what is registered can be run; baselines, and the ones that are ordinary runs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file

import ddfw as package
from ddfw.config.catalog import catalog
from ddfw.engine.inner import Network, build_module
from ddfw.pipeline.evaluation.evaluator import Evaluator
from ddfw_plugins.datasets.digits import Digits
from ddfw_plugins.executors.cpu import CpuSession
from ddfw_plugins.models.convnet import ConvNet

ALL = ["distilled", "random_real", "random_real_teacher", "kmeans_real_teacher", "herding_real_teacher", "full_data"]


def names(kind):
    return sorted(e.name for e in catalog().entries(kind))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of experts for all runs here; the finished run's own is left as it is."""
    return tmp_path_factory.mktemp("shared") / "experts"


@pytest.fixture
def run(ddfw, tiny, shared, here):
    """A tiny run of two outer steps; options of lss go to lss only."""

    def start(*words, out="run", baselines="[]", experts=shared):
        param = words[words.index("--param") + 1] if "--param" in words else "lss"
        said = [w for w in tiny if param == "lss" or "param.rank" not in w]
        told = ["--set=outer.steps=2", f"--set=eval.baselines={baselines}", "--experts-dir", experts]
        return ddfw(*said, *told, "--out", here / out, *words)

    return start


def summary(here, out="run"):
    return json.loads((here / out / "summary.json").read_text())


@pytest.mark.parametrize("param", names("param"))
def test_every_parameterisation_runs_with_its_defaults(run, here, param):
    """Broken: a component could be listed but not used."""
    said = run("-q", "--param", param, "--ipc", 2)
    assert said.code == 0, said.err
    found = package.load(here / "run")
    assert found.card["components"]["param"]["name"] == param and found.images.isfinite().all()
    stored = load_file(here / "run" / "synthetic" / "params.safetensors")
    floats = sum(t.numel() for t in stored.values() if t.is_floating_point())
    assert floats == summary(here)["budget"]["strict"] == found.card["floats"]["strict"]


@pytest.mark.parametrize("loss", names("loss"))
def test_every_loss_runs_with_its_defaults(run, here, loss):
    """Broken: a component could be listed but not used."""
    said = run("-q", "--loss", loss)
    assert said.code == 0, said.err
    assert package.load(here / "run").card["components"]["loss"]["name"] == loss


@pytest.mark.parametrize("labels", names("labels"))
def test_every_label_strategy_runs_with_its_defaults(run, here, labels):
    """Broken: a component could be listed but not used."""
    said = run("-q", "--labels", labels)
    assert said.code == 0, said.err
    targets = package.load(here / "run").targets
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)), atol=1e-5)


@pytest.mark.parametrize("traj", names("traj"))
@pytest.mark.parametrize("augment", names("augment"))
def test_every_source_and_augmentation_runs_with_its_defaults(run, here, traj, augment):
    """Broken: a component could be listed but not used."""
    said = run("-q", "--traj", traj, "--augment", augment)
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("baselines", "rows"),
    [
        ("[]", []),
        ('["full_data"]', ["full_data"]),
        ('["random_real_teacher"]', ["random_real_teacher"]),
        ('["full_data", "random_real"]', ["random_real", "full_data"]),
        ('["kmeans_pixels", "herding_real", "kmeans_real"]', ["kmeans_real", "herding_real", "kmeans_pixels"]),
    ],
)
def test_only_the_baselines_that_were_asked_for_are_judged(run, here, baselines, rows):
    """Broken: hours on the full data set, which nobody asked for, or a row that is missing."""
    said = run("--json", baselines=baselines)
    assert said.code == 0, said.err
    subjects = ["distilled", *rows]
    assert [r["subject"] for r in summary(here)["rows"]] == subjects
    assert sorted(p.stem for p in (here / "run" / "eval").iterdir()) == sorted(subjects)
    tested = [e for e in said.events if e["event"] == "evaluated" and e["split"] == "test"]
    assert [e["subject"] for e in tested] == subjects
    card = package.load(here / "run").card
    assert [r["subject"] for r in card["accuracies"]] == subjects


@pytest.mark.parametrize("space", ["standard", "zca"])
def test_a_run_of_some_classes_selects_by_features_of_its_own_experts(run, here, space):
    """Broken: a selection would look for classes that a run does not have, or in another space than its experts saw."""
    chosen = ["kmeans_real", "kmeans_real_teacher", "herding_real", "herding_real_teacher"]
    words = ["--ipc", 4, "--set=data.classes=[3, 5, 8]", f"--set=data.space={space}"]
    said = run("-q", *words, baselines=json.dumps(chosen))
    assert said.code == 0, said.err
    rows = {r["subject"]: r for r in summary(here)["rows"]}
    assert [rows[name]["images"] for name in chosen] == [12, 9, 12, 9]  # 768 floats buy 12 · 64, or 9 · (64 + 3)


def test_leaving_baselines_out_changes_no_other_figure(run, here):
    """Broken: what stands beside a set would change its accuracy."""
    assert run("-q", out="all", baselines=json.dumps(ALL[1:])).code == 0
    assert run("-q", out="some", baselines='["full_data"]').code == 0
    rows = {r["subject"]: r for r in summary(here, "all")["rows"]}
    assert list(rows) == ALL
    for row in summary(here, "some")["rows"]:
        assert row == rows[row["subject"]]


@pytest.mark.parametrize("value", ['["random"]', '["full_data", "distilled"]', "3", '"full_data"'])
def test_baselines_that_do_not_exist_are_refused(run, here, value):
    """Broken: a slip would leave the row out that a paper needs."""
    run("-q", baselines=value).refused(2, "eval")
    assert not (here / "run").exists()


@pytest.fixture(scope="session")
def golden_experts(tmp_path_factory, ddfw):
    """The golden buffer's two experts, which know digits, as a store."""
    from pathlib import Path

    place = tmp_path_factory.mktemp("golden-experts")
    good = Path(__file__).parents[2] / "golden" / "replay_buffer" / "good.pt"
    network = ["--data", "digits", "--set", "model.depth=2", "--set", "model.width=8"]
    facts = json.loads(ddfw("experts", "import", good, *network, "--experts-dir", place, "--json").out)
    folder = place / facts["name"]
    last = [load_file(folder / f"expert-{n}.safetensors")["snapshots"][-1] for n in range(2)]
    module = build_module(ConvNet(depth=2, width=8), Digits().load(None).spec)
    words = ["--set=model.width=8", f"--set=experts.store={facts['name']}"]
    return SimpleNamespace(folder=place, words=words, last=last, network=Network(module))


def test_random_real_images_with_teacher_labels_are_an_ordinary_run(run, here, golden_experts):
    """Broken: the baseline that every method has to beat would be something else than real images and their labels."""
    words = ["--param", "pixel", "--labels", "teacher", "--set=outer.steps=0"]
    said = run("-q", *words, *golden_experts.words, experts=golden_experts.folder)
    assert said.code == 0, said.err
    (row,) = summary(here)["rows"]
    assert any("over the strict budget" in note for note in row["notes"])
    assert summary(here)["budget"]["over_budget"] is True and summary(here)["selected_step"] == 0
    assert row["floats"] == {"strict": 10 * (64 + 10), "pixels": 640}
    found = package.load(here / "run")
    pixels = 16 * found.space.decode(found.images.double())
    assert float((pixels - pixels.round()).abs().max()) < 1e-4
    train = Digits().load(None).train
    classes = {
        tuple(image.flatten().tolist()): int(label)
        for image, label in zip(train.images.long(), train.labels, strict=True)
    }
    picked = [tuple(image.flatten().tolist()) for image in pixels.round().long()]
    assert len(set(picked)) == 10
    assert [classes[image] for image in picked] == list(range(10))
    # The labels are the experts' mean probabilities.
    with torch.no_grad():
        each = [golden_experts.network.logits(theta, found.images).softmax(dim=1) for theta in golden_experts.last]
    assert torch.allclose(found.targets, (each[0] + each[1]) / 2, atol=1e-6)


def test_recognised_images_are_recognised_and_random_ones_not_all(run, here, golden_experts):
    """Broken: `outer.images` would change nothing, or ask networks that know nothing yet."""
    words = ["-q", "--param", "pixel", "--labels", "hard", "--set=outer.steps=0", "--ipc", 5, *golden_experts.words]
    right = {}
    for images in ("random", "recognised"):
        said = run(*words, f"--set=outer.images={images}", out=images, experts=golden_experts.folder)
        assert said.code == 0, said.err
        found = package.load(here / images).images
        with torch.no_grad():
            answers = golden_experts.network.logits(golden_experts.last[0], found).argmax(dim=1)
        right[images] = int((answers == torch.arange(10).repeat_interleave(5)).sum())
    assert right["recognised"] == 50 > right["random"]


def test_the_running_mean_is_what_is_judged_and_written(run, here, monkeypatch):
    """Broken: the figures would be of one set and the files of another."""
    select = Evaluator.select

    def later_is_better(self, subject, validation):
        report = select(self, subject, validation)
        return evolve(report, mean=float(subject.step))

    monkeypatch.setattr(Evaluator, "select", later_is_better)
    judged, evaluate = [], CpuSession.evaluate

    def note(self, settings, subject, *rest):
        judged.append(subject.images.clone())
        return evaluate(self, settings, subject, *rest)

    monkeypatch.setattr(CpuSession, "evaluate", note)
    stored = {}
    for out, words in (("0", ["steps=0"]), ("1", ["steps=1"]), ("mean", ["steps=1", "ema=0.9"])):
        settings = [f"--set=outer.{w}" for w in words]
        assert run("-q", "--param", "pixel", "--labels", "soft", "--set=param.lr=1e4", *settings, out=out).code == 0
        stored[out] = load_file(here / out / "synthetic" / "params.safetensors")
    start, moved, mean = (stored[out]["param.images"] for out in ("0", "1", "mean"))
    assert float((moved - start).abs().max()) > 1e-2
    # The decay of the first step is min(0.9, 1/10).
    assert torch.allclose(mean, 0.1 * start + 0.9 * moved, atol=1e-5)
    assert torch.equal(stored["mean"]["labels.logits"], stored["1"]["labels.logits"])
    assert torch.equal(load_file(here / "mean" / "synthetic" / "images.safetensors")["images"], mean)
    assert torch.equal(judged[-1], mean)


def test_skipped_steps_are_told_and_the_run_goes_on(run, here, monkeypatch):
    """Broken: one bad segment would end a run of days, or its NaN make the stream unreadable."""
    gradient, asked = CpuSession.meta_gradient, []

    def second_is_nan(self, problem, segments):
        asked.append(1)
        found = gradient(self, problem, segments)
        nan = torch.full_like(found.loss, float("nan"))
        return found if len(asked) != 2 else evolve(found, loss=nan, images=found.images * nan)

    monkeypatch.setattr(CpuSession, "meta_gradient", second_is_nan)
    said = run("--json", "--set=outer.steps=3", "--set=outer.skip_above=100")
    assert said.code == 0, said.err

    def forbidden(constant):
        raise AssertionError(constant)

    for text in (said.out, (here / "run" / "metrics.jsonl").read_text()):
        events = [json.loads(line, parse_constant=forbidden) for line in text.splitlines()]
        steps = [e for e in events if e["event"] == "step"]
        assert [e["skipped"] for e in steps] == [False, True, False]
        assert [e["step"] for e in steps] == [1, 2, 3]
        assert steps[1]["loss"] is None and steps[0]["loss"] is not None
        assert steps[1]["step_size"] == steps[0]["step_size"]
    asked.clear()
    loud = run("--set=outer.steps=3", "--set=outer.skip_above=100", out="loud")
    assert loud.code == 0 and "Traceback" not in loud.err
    asked.clear()
    run("-q", "--set=outer.steps=3", out="without").refused(5, "not finite at outer step 2")
