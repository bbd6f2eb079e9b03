"""Faults that a review found once, and that nothing else would notice: order of classes, protocols, other networks."""

from __future__ import annotations

import json
import os

import pytest

from ddfw.errors import DivergedError
from ddfw.pipeline.evaluation.evaluator import Evaluator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(ddfw, tiny, tmp_path_factory):
    """A run on three classes."""
    place = tmp_path_factory.mktemp("three")
    words = ["--set=data.classes=[0, 1, 2]", "--out", place / "run", "--experts-dir", place / "experts", "-q"]
    said = ddfw(*tiny, *words)
    assert said.code == 0, said.err
    return place


def test_a_start_from_classes_in_another_order_is_put_in_order(ddfw, tiny, three, here):
    """Broken: the images of one class would go on as those of another."""
    words = ["--set=outer.steps=0", "--set=data.classes=[2, 1, 0]", "--init-from", three / "run"]
    tiny = [w for w in tiny if w != "--set=outer.steps=3"]
    assert ddfw(*tiny, *words, "--out", here / "run", "--experts-dir", here / "experts", "-q").code == 0
    import ddfw as package

    first, turned = package.load(three / "run"), package.load(here / "run")
    per_class = len(first) // 3
    of_zero = first.images[:per_class].mean(dim=0)
    distances = [float((turned.images[k * per_class :][:per_class].mean(dim=0) - of_zero).norm()) for k in range(3)]
    assert distances.index(min(distances)) == 2


def test_an_export_brings_its_network_and_augmentation_and_the_user_names_data_and_protocol(ddfw, three, here):
    """Broken: a card would choose what is loaded and how long, or its network would be forgotten."""
    assert ddfw("export", three / "run", "--format", "npz", "--out", here / "set").code == 0
    ddfw("eval", here / "set", "--json").refused(2, "--data", "--like", "'digits'")
    own = json.loads((three / "run" / "eval" / "distilled.json").read_text())["accuracies"]
    (record,) = ddfw("eval", here / "set", "--like", three / "run", "--json").events
    assert record["accuracies"] == own
    said = ["--data", "digits", "--set=data.classes=[0, 1, 2]", "--networks", "2", "--set=eval.epochs=3"]
    (record,) = ddfw("eval", here / "set", *said, "--json").events
    assert record["accuracies"] == own
    network = record["protocol"]["network"]
    assert (network["name"], network["depth"], network["width"]) == ("convnet", 2, 4)


def test_figures_of_another_protocol_do_not_take_the_place_of_the_runs_own(ddfw, three):
    """Broken: one could not tell which protocol a figure has."""
    ddfw("eval", three / "run")
    ddfw("eval", three / "run", "--set", "eval.epochs=2")
    files = sorted((three / "run" / "eval").glob("again-*.json"))
    records = [json.loads(f.read_text()) for f in files]
    assert len(files) == 2
    assert {r["protocol"]["eval"]["epochs"] for r in records} == {2, 3}


def test_a_network_that_diverges_is_a_finding_and_no_end(ddfw, tiny, finished, here, monkeypatch):
    """Broken: hours of distillation would be thrown away because one of the other networks does not like the rate."""
    measured = Evaluator.measured

    def diverging(self, subjects, judged, split, *rest):
        for position, report in measured(self, subjects, judged, split, *rest):
            bad = self.net == "mlp" and subjects[position].name == "distilled" and split == "test"
            yield position, DivergedError("training diverged") if bad else report

    monkeypatch.setattr(Evaluator, "measured", diverging)
    said = ddfw(*tiny, "--cross", "mlp", "--out", here / "run", "--experts-dir", finished.experts)
    assert said.code == 0, said.err
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert [(d["net"], d["subject"]) for d in summary["cross_diverged"]] == [("mlp", "distilled")]
    own = {row["subject"] for row in summary["rows"]}
    assert {row["subject"] for row in summary["cross"]} == own - {"distilled", "full_data"}
    assert "mlp could not be trained on distilled" in said.out


def test_a_picture_that_is_a_program_for_another_program_is_not_run(ddfw, here, monkeypatch):
    """Broken: looking at a folder of pictures would start an interpreter with a stranger's script."""
    stub = here / "bin" / "gs"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\ntouch {here / 'ran'}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    for label in ("a", "b"):
        (here / "set" / label).mkdir(parents=True)
        (here / "set" / label / "0.png").write_text(
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
        )
    ddfw("eval", here / "set", "--data", "digits").refused(4, "0.png")
    assert not (here / "ran").exists()


def test_a_set_of_another_part_of_the_data_says_that_it_may_know_the_test_images(ddfw, tiny, three, here):
    """Broken: a figure on images that were learned from would look like any other."""
    (record,) = ddfw("eval", three / "run", "--set", "data.split_seed=5", "--set", "eval.epochs=2", "--json").events
    assert any("may have seen these test images" in note for note in record["notes"])
