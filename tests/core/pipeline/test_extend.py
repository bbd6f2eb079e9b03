"""A finished run that is extended learns what a run of so many steps learns in one go."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import attrs
import pytest

from ddfw.artifacts import checkpoint
from ddfw.errors import ConfigError, DataError, DirectoryInUseError, ResumeError, StoppedError
from ddfw.pipeline.extend import extend
from ddfw.pipeline.runner import Places, run
from ddfw.pipeline.sets import load

#: The tests of resuming, whose tiny runs are taken here, too.
_spec = importlib.util.spec_from_file_location("resuming", Path(__file__).with_name("test_resume.py"))
resuming = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(resuming)
CASES, FILES, SGD, config_of, go, told = (
    getattr(resuming, name) for name in ("CASES", "FILES", "SGD", "config_of", "go", "told")
)


@pytest.fixture(scope="session")
def experts(tmp_path_factory):
    """A cache that all runs here share."""
    return tmp_path_factory.mktemp("experts")


def of_steps(config, steps):
    return attrs.evolve(config, outer=attrs.evolve(config.outer, steps=steps))


def lengthened(config, steps, out, experts, **options):
    """As `extend`, also for components that no plugin offers."""
    places = Places(out=out, experts=experts)
    return run(of_steps(config, steps), places, quiet=True, extends=config, **options)


def tensors_of(out):
    return {name: (out / "synthetic" / name).read_bytes() for name in FILES if name != "card.json"}


def selections(out):
    return [e for e in told(out) if e["event"] == "evaluated" and e["split"] == "validation"]


def record(out, name):
    return json.loads((out / name).read_text())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("case", ["sgd", "adam"])
@pytest.mark.parametrize("first", [6, 7], ids=["at-a-selection", "between-two-selections"])
def test_a_run_that_is_extended_has_the_bytes_of_one_in_one_go(tmp_path, experts, case, ema, first):
    """Broken: what is learned would depend on how often somebody had asked for more steps."""
    changes, components = CASES[case]
    config = config_of({**changes, "outer": {**SGD["outer"], "ema": ema}}, **components)
    config = attrs.evolve(config, eval=attrs.evolve(config.eval, baselines=("random_real",)))
    go(of_steps(config, 14), tmp_path / "whole", experts)
    out = tmp_path / "parts"
    short = of_steps(config, first)
    go(short, out, experts)
    before, kept = record(out, "summary.json"), tensors_of(out)
    result = lengthened(short, 14, out, experts)
    assert tensors_of(out) == tensors_of(tmp_path / "whole")
    assert selections(out) == selections(tmp_path / "whole")
    assert [e for e in told(out) if e["event"] == "step"][-1]["step"] == 14
    whole, now = record(tmp_path / "whole", "summary.json"), record(out, "summary.json")
    for key in ("selected_step", "selected_accuracy", "step_size", "outer_steps"):
        assert now[key] == whole[key], key
    assert [row["mean"] for row in now["rows"]] == [row["mean"] for row in whole["rows"]]
    assert now["extended_from"] == [first] and now["test_reads"] == 2 and whole["test_reads"] == 1
    assert record(out, "manifest.json")["test_reads"] == 2
    assert any("after the test split had been read" in note for note in now["rows"][0]["notes"])
    assert not result.already_finished
    earlier = out / "earlier" / f"step-{first:06d}"
    assert record(earlier, "summary.json") == before and tensors_of(earlier) == kept
    assert load(earlier).step == before["selected_step"]


def test_a_selection_that_only_the_end_of_the_shorter_run_caused_does_not_count(tmp_path, experts, monkeypatch):
    """Broken: the longer run could keep a step at which it would never have looked."""
    from ddfw.pipeline.evaluation.evaluator import Evaluator

    plain = Evaluator.select

    def flattered(self, subject, validation):
        found = plain(self, subject, validation)
        return attrs.evolve(found, mean={3: 0.5, 7: 0.9, 9: 0.6}.get(subject.step, 0.1))

    monkeypatch.setattr(Evaluator, "select", flattered)
    config, out = config_of({}), tmp_path / "run"
    assert go(config, out, experts).summary.selected_step == 7
    assert extend(out, 8, Places(experts=experts), quiet=True).summary.selected_step == 3
    summary = extend(out, 10, Places(experts=experts), quiet=True).summary
    assert summary.selected_step == 9 and summary.extended_from == (7, 8) and summary.test_reads == 3
    go(of_steps(config, 10), tmp_path / "whole", experts)
    assert tensors_of(out) == tensors_of(tmp_path / "whole")
    assert selections(out) == selections(tmp_path / "whole")


def test_an_extension_that_is_stopped_or_killed_goes_on_by_the_same_call(tmp_path, experts, monkeypatch):
    """Broken: a killed extension would leave neither the shorter run nor the longer one."""
    from ddfw.artifacts.run_dir import RunDirectory

    config, out = config_of({}), tmp_path / "run"
    go(config, out, experts)

    class Killed(BaseException):
        """The end of the process."""

    for name in ("lengthen", "archive"):
        with monkeypatch.context() as patch:

            def die(self, *arguments):
                raise Killed

            patch.setattr(RunDirectory, name, die)
            with pytest.raises(Killed):
                extend(out, 12, Places(experts=experts), quiet=True)
        assert go(config, out, experts).already_finished, f"killed before {name}, it is the shorter run still"
    whole = RunDirectory.lengthen

    def halfway(self, text):
        summary = (self.path / "summary.json").read_bytes()
        whole(self, text)
        (self.path / "summary.json").write_bytes(summary)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "lengthen", halfway)
        with pytest.raises(Killed):
            extend(out, 12, Places(experts=experts), quiet=True)
    with pytest.raises(StoppedError, match="of 12; the same command goes on"):
        run(of_steps(config, 12), Places(out=out, experts=experts), quiet=True, max_seconds=1e-3)
    with pytest.raises(DirectoryInUseError, match="not finished"):
        extend(out, 13, Places(experts=experts), quiet=True)
    extend(out, 12, Places(experts=experts), quiet=True)
    go(of_steps(config, 12), tmp_path / "whole", experts)
    assert tensors_of(out) == tensors_of(tmp_path / "whole")


def test_what_cannot_be_extended_is_refused_and_stays_as_it_is(tmp_path, experts):
    """Broken: a run could be lost by asking for more of it."""
    config, out = config_of({}), tmp_path / "run"
    places = Places(experts=experts)
    with pytest.raises(DataError, match="no run directory"):
        extend(tmp_path / "nothing", 9, places)
    go(config, out, experts)
    held = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for steps in (3, 7):
        with pytest.raises(ConfigError, match="has made 7 outer steps"):
            extend(out, steps, places)
    moved = attrs.evolve(config, executor=attrs.evolve(config.executor, threads=2))
    with pytest.raises(DirectoryInUseError, match=r"executor\.threads"):
        lengthened(moved, 9, out, experts)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == held
    checkpoint.remove(out / "checkpoints")
    with pytest.raises(DirectoryInUseError, match=r"keeps no checkpoint.*--init-from"):
        extend(out, 9, places)


def test_an_option_says_that_no_checkpoint_is_kept(tmp_path, experts):
    """Broken: disks would fill with states that nobody wants."""
    config, out = config_of({}), tmp_path / "run"
    go(attrs.evolve(config, run=attrs.evolve(config.run, keep_checkpoint=False)), out, experts)
    assert not (out / "checkpoints").exists()
    with pytest.raises(DirectoryInUseError, match=r"run\.keep_checkpoint = false"):
        extend(out, 9, Places(experts=experts))


def test_a_run_without_steps_can_be_extended(tmp_path, experts):
    """Broken: a start that was looked at first could not be learned from."""
    config, out = config_of({"outer": {**SGD["outer"], "steps": 0}}), tmp_path / "run"
    go(config, out, experts)
    extend(out, 4, Places(experts=experts), quiet=True)
    go(of_steps(config, 4), tmp_path / "whole", experts)
    assert tensors_of(out) == tensors_of(tmp_path / "whole")


def test_an_extension_with_other_versions_leaves_the_finished_run(tmp_path, experts, monkeypatch):
    """Broken: after an upgrade the summary would be gone, and nothing would have been gained."""
    config, out = config_of({}), tmp_path / "run"
    go(config, out, experts)
    shutil.copytree(out, tmp_path / "copy")
    monkeypatch.setattr("ddfw.pipeline.resume.torch.__version__", "9.9.0")
    with pytest.raises(ResumeError, match="made with torch"):
        extend(out, 9, Places(experts=experts), quiet=True)
    assert go(config, out, experts).already_finished
