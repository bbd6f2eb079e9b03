"""A run that was stopped goes on, and ends with the bytes of one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from typing import ClassVar

import attrs
import pytest
import torch

from ddfw import (
    AbstractAugmentation,
    AbstractExecutor,
    AbstractObserver,
    AbstractParameterization,
    Crew,
    ObserverSession,
    ParamGroup,
)
from ddfw.artifacts import atomic
from ddfw.artifacts.seal import write_sealed
from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.errors import DataError, DirectoryInUseError, DivergedError, ResumeError, StoppedError
from ddfw.pipeline import resume, runner, stopping
from ddfw.pipeline.resume import find
from ddfw.pipeline.runner import Places, run
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.parameterizations.pixel import Pixel

FILES = ("params.safetensors", "images.safetensors", "labels.safetensors", "card.json")
SGD = {
    "model": {"depth": 1, "width": 4},
    "experts": {"count": 2, "epochs": 2},
    "outer": {"steps": 7, "syn_steps": 3, "step_size_lr": 1e-3},
    "eval": {"networks": 2, "epochs": 2, "full_epochs": 1, "select_networks": 1, "every": 3, "baselines": []},
    "window": {"max_start": 1},
    "labels": {"name": "soft"},
    "param": {"name": "lss", "rank": 4},
    "executor": {"threads": 1},
}


@attrs.frozen(kw_only=True)
class AdamPixel(AbstractParameterization):
    """Pixels that Adam moves."""

    name: ClassVar[str] = "adam-pixel"

    def layout(self, spec, budget, label_floats_per_image):
        return Pixel().layout(spec, budget, label_floats_per_image)

    def init(self, layout, real, rng):
        return Pixel().init(layout, real, rng)

    def decode(self, params, index):
        return Pixel().decode(params, index)

    def param_groups(self, params):
        return (ParamGroup(keys=("images",), lr=0.05, momentum=0.9, optimiser="adam"),)


class Clock(ObserverSession):
    """Time that passes with outer steps and experts alone: a second each."""

    def __init__(self):
        self.seconds, self.steps, self.headline = 0.0, [], ()

    def run_started(self, report):
        self.headline = report.headline

    def expert_ready(self, report):
        self.seconds += not report.cached

    def step_finished(self, report):
        self.seconds += 1
        self.steps.append(report.step)


@attrs.frozen(kw_only=True)
class Watching(AbstractObserver):
    """Hands a session out."""

    name: ClassVar[str] = "watching"
    session: ObserverSession

    @contextlib.contextmanager
    def open(self, run):
        yield self.session


@pytest.fixture
def clock(monkeypatch):
    """The time that runs see."""
    made = Clock()
    monkeypatch.setattr(stopping, "now", lambda: made.seconds)
    monkeypatch.setattr(runner, "now", lambda: made.seconds)
    return made


@pytest.fixture(scope="session")
def experts(tmp_path_factory):
    """A cache that all runs here share."""
    return tmp_path_factory.mktemp("experts")


def config_of(changes, **components):
    tables = {key: {**SGD.get(key, {}), **changes.get(key, {})} for key in (*SGD, "run")}
    return attrs.evolve(structured_config(gather("default", tables, ())), **components)


def go(config, out, experts, clock=None, **options):
    observers = [] if clock is None else [("clock", Watching(session=clock))]
    return run(config, Places(out=out, experts=experts), observers, quiet=True, **options)


def bytes_of(out):
    summary = json.loads((out / "summary.json").read_text())
    del summary["seconds"], summary["device"]
    return {**{name: (out / "synthetic" / name).read_bytes() for name in FILES}, "summary": summary}


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def told(out):
    """What metrics.jsonl says of steps and evaluations, times apart."""
    kept = [e for e in lines(out) if e["event"] in ("step", "evaluated")]
    return [{key: value for key, value in e.items() if key != "t"} for e in kept]


CASES = {
    "sgd": ({}, {}),
    "adam": ({}, {"param": AdamPixel()}),
    "mean-and-skipped": ({"outer": {**SGD["outer"], "ema": 0.9, "skip_above": 0.8}, "param": {"subspaces": 2}}, {}),
    "held": ({"gradient": {"memory": 10**6}, "param": {"name": "pixel"}}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_stopped_twice_ends_with_the_bytes_of_one_that_was_not(tmp_path, experts, clock, case):
    """Broken: a run in parts would be another run."""
    changes, components = CASES[case]
    if "gradient" in changes:
        changes = {**changes}
        tables = {**SGD, "gradient": changes.pop("gradient"), "param": {"name": "pixel"}}
        config = structured_config(gather("default", tables, ()))
    else:
        config = config_of(changes, **components)
    go(config, tmp_path / "whole", experts)
    skipped = [e["skipped"] for e in told(tmp_path / "whole") if e["event"] == "step"]
    if case.startswith("mean"):
        assert 0 < sum(skipped) < 7, "some steps have to be skipped for this case to say anything"
    out = tmp_path / "parts"
    for after in (2, 4):  # between two selections, and in the window after one
        began = clock.seconds
        with pytest.raises(StoppedError, match=f"stopped after outer step {after} of 7; the same command goes on"):
            go(config, out, experts, clock, max_seconds=1.5)
        assert clock.seconds == began + 2
        assert [p.name for p in (out / "checkpoints").glob("step-*")] == [f"step-{after:06d}.safetensors"]
        assert not (out / "summary.json").exists()
    result = go(config, out, experts, clock)
    assert "resumes   from step 4" in clock.headline and clock.steps == [1, 2, 3, 4, 5, 6, 7]
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert told(out) == told(tmp_path / "whole")
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-000007.safetensors"]
    assert not result.already_finished
    assert json.loads((out / "manifest.json").read_text())["resumed_from"] == [2, 4]
    assert result.summary["seconds"]["distill"] == 7, "seconds add up over the parts"
    assert go(config, out, experts).already_finished


def test_a_finished_run_whose_config_has_a_preset_by_its_former_name_is_recognised(tmp_path, experts, unsealed):
    """Broken: a run that version 0.1 finished with `waypoints = "paper"` would be refused, or be made once more."""
    config, out = config_of({"outer": {**SGD["outer"], "steps": 1}}), tmp_path / "run"
    go(config, out, experts)
    path = out / "config.toml"
    text = path.read_text()
    assert 'waypoints = "two-point"' in text
    former = text.replace('"two-point"', '"paper"')
    path.write_text(former)
    unsealed(out)
    assert go(config, out, experts).already_finished and path.read_text() == former
    assert go(structured_config(gather(str(path), {}, ())), out, experts).already_finished
    with pytest.raises(DirectoryInUseError, match="holds a run with another configuration"):
        go(config_of({"outer": {**SGD["outer"], "steps": 2}}), out, experts)


@pytest.mark.parametrize("name", ["caf\u00e9", "a\u200bb", "a\u202eb", "a\x7fb", "a\tb", "a\udcffb"], ids=ascii)
def test_a_finished_run_in_a_directory_of_any_name_is_finished(tmp_path, experts, name):
    """Broken: the last event holds the name as the terminal may show it, and would be called damaged."""
    config = config_of({"outer": {**SGD["outer"], "steps": 1}})
    go(config, tmp_path / name, experts)
    assert lines(tmp_path / name)[-1]["event"] == "run_finished"
    assert go(config, tmp_path / name, experts).already_finished


def test_time_that_is_over_at_the_last_step_stops_before_the_evaluation(tmp_path, experts, clock):
    """Broken: a job would be killed in the evaluation, over and over."""
    config = config_of({})
    with pytest.raises(StoppedError, match="outer step 7 of 7, before the evaluation"):
        go(config, tmp_path / "run", experts, clock, max_seconds=6.5)
    assert {e["split"] for e in told(tmp_path / "run") if e["event"] == "evaluated"} == {"validation"}
    go(config, tmp_path / "run", experts, clock, max_seconds=0.5)
    assert clock.steps == list(range(1, 8))
    go(config, tmp_path / "whole", experts)
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")


def test_time_that_is_over_between_two_experts_keeps_those_that_are_trained(tmp_path, clock):
    """Broken: a queue's short slots would train the same experts for ever."""
    config = config_of({"experts": {"count": 3}})
    with pytest.raises(StoppedError, match="stopped after 2 of 3 experts; the same command goes on"):
        go(config, tmp_path / "run", tmp_path / "experts", clock, max_seconds=1.5)
    with pytest.raises(StoppedError, match="after outer step 1 of 7"):
        go(config, tmp_path / "run", tmp_path / "experts", clock, max_seconds=0.5)
    with pytest.raises(StoppedError, match="stopped before"):
        go(config, tmp_path / "run", tmp_path / "experts", clock, max_seconds=-1)


def test_a_run_that_dies_in_the_evaluation_goes_on_there(tmp_path, experts, clock, monkeypatch):
    """Broken: the outer loop would be run again for a full disk at the end."""
    config = config_of({})
    with monkeypatch.context() as broken:

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device")

        broken.setattr("ddfw.pipeline.stages.final", fail)
        with pytest.raises(OSError, match="No space"):
            go(config, tmp_path / "run", experts, clock)
    go(config, tmp_path / "run", experts, clock)
    assert clock.steps == list(range(1, 8))
    # The part that died had begun to evaluate; whether it had read the test split nobody knows.
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["test_reads"] == 2
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-000007.safetensors"]
    events = [e["event"] for e in lines(tmp_path / "run")]
    assert events.count("run_finished") == 1 and events[-1] == "run_finished"


def test_a_run_that_diverged_diverges_again_from_its_checkpoint(tmp_path, experts, clock):
    """Broken: the same command would be an internal error, or call a diverged run finished."""
    config = config_of({"outer": {**SGD["outer"], "skip_above": 1e-9}})
    found = []
    for _ in range(2):
        with pytest.raises(DivergedError, match="all 7 outer steps were skipped") as caught:
            go(config, tmp_path / "run", experts, clock)
        found.append(caught.value.step)
    assert found == [7, 7] and clock.steps == list(range(1, 8))


@pytest.fixture
def stopped(tmp_path, experts, clock):
    """A run that was stopped after 4 of 7 steps, with no threads of its own: configuration and directory."""
    config = config_of({}, executor=Cpu())
    with pytest.raises(StoppedError):
        go(config, tmp_path / "run", experts, clock, max_seconds=3.5)
    return config, tmp_path / "run"


def test_a_damaged_checkpoint_is_refused(stopped, experts):
    """Broken: a run would go on from noise."""
    config, out = stopped
    (path,) = (out / "checkpoints").glob("step-*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"damaged.*rm -r .*checkpoints"):
        go(config, out, experts)
    shutil.rmtree(out / "checkpoints")
    go(config, out, experts)
    assert [e["step"] for e in told(out) if e["event"] == "step"] == list(range(1, 8))


def test_another_number_of_threads_is_refused_by_name(stopped, experts):
    """Broken: the last bits would drift, and nobody would know why."""
    config, out = stopped
    before, threads = (out / "metrics.jsonl").read_bytes(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ResumeError, match=f"threads {threads}, not {threads + 1}.*rm -r .*checkpoints"):
            go(config, out, experts)
    finally:
        torch.set_num_threads(threads)
    assert (out / "metrics.jsonl").read_bytes() == before
    go(config, out, experts)


@pytest.mark.parametrize(("name", "value"), [("torch", "0.4.1"), ("machine", "Linux sparc"), ("ddfw", "0.0.1")])
def test_another_version_or_machine_is_refused_by_name(stopped, experts, monkeypatch, name, value):
    """Broken: a run that moved would end elsewhere than it would have."""
    config, out = stopped
    real = resume.circumstances

    def elsewhere(*args):
        return {**real(*args), name: value}

    monkeypatch.setattr("ddfw.pipeline.stages.circumstances", elsewhere)
    with pytest.raises(ResumeError, match=rf"with {name} .*, not {value}.*rm -r"):
        go(config, out, experts)


def test_other_experts_are_refused(stopped, experts, tmp_path):
    """Broken: experts that were trained again on another machine would slip under a run."""
    config, out = stopped
    other = tmp_path / "other"
    shutil.copytree(experts, other)
    for folder in other.iterdir():
        index = json.loads((folder / "index.json").read_text())
        for name, expert in index["experts"].items():
            seed = int(name)
            tensors = atomic.read_tensors(folder / expert["file"], expert["sha256"])
            about = {"schema": 1, "seed": seed, "key_sha256": "", "moved": True}
            expert["sha256"] = atomic.write_tensors(folder / expert["file"], tensors, about)
        del index["seal"]
        write_sealed(folder / "index.json", index)
    with pytest.raises(ResumeError, match=r"with experts \w{12}…, not \w{12}…"):
        go(config, out, other)
    go(config, out, experts)


def test_as_many_step_graphs_are_held_as_before(stopped, experts, monkeypatch):
    """Broken: with another amount of free memory, a run would go on with another order of sums."""
    config, out = stopped
    contexts, real = [], Cpu.open

    def noting(self, context):
        contexts.append(context)
        return real(self, context)

    monkeypatch.setattr(Cpu, "open", noting)
    recorded = find(out / "checkpoints", Crew()).facts.held_steps
    result = go(config, out, experts)
    assert recorded is not None and [c.held_steps for c in contexts] == [recorded]
    assert result.summary["device"]["held_steps"] == recorded


def test_half_a_line_at_the_end_of_the_metrics_goes(stopped, experts):
    """Broken: metrics.jsonl of a killed run would have a line that no program reads."""
    config, out = stopped
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 1, "event": "step", "t": 9.0, "step": 5}\n{"schema": 1, "ev')
    go(config, out, experts)
    assert [e["step"] for e in told(out) if e["event"] == "step"] == list(range(1, 8))
    times = [e["t"] for e in lines(out)]
    assert times == sorted(times)


def test_signals_are_left_alone_outside_the_main_thread_and_put_back_inside(tmp_path, experts):
    """Broken: a notebook's thread could not run at all, or Ctrl-C would be dead afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    caught = []

    def work():
        try:
            go(config_of({"outer": {"steps": 1}}), tmp_path / "run", experts)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not caught and (tmp_path / "run" / "summary.json").is_file()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


class Meeting:
    """Two threads that exchange values."""

    def __init__(self):
        self._barrier = threading.Barrier(2, timeout=60)
        self._values = [None, None]

    def exchange(self, rank, value):
        self._values[rank] = json.loads(json.dumps(value))
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found

    def break_off(self):
        self._barrier.abort()


class Member(Crew):
    """One of two."""

    size = 2

    def __init__(self, rank, meeting):
        self.rank, self._meeting, self.aligned = rank, meeting, 0

    def share(self, value):
        return self._meeting.exchange(self.rank, value)[0]

    def gather(self, value):
        return self._meeting.exchange(self.rank, value)

    def align(self, tensors):
        self.aligned += len(list(tensors))


class Shared:
    """A session that trains its rank's share of the experts; everything else it does alone, and so alike."""

    def __init__(self, inner, rank):
        self._inner, self._rank = inner, rank

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def train_experts(self, settings, train, validation, seeds, on_epoch):
        return self._inner.train_experts(settings, train, validation, seeds[self._rank :: 2], on_epoch)


@attrs.frozen(kw_only=True)
class Pair(AbstractExecutor):
    """Two threads as a crew; a thread's name is its rank."""

    name: ClassVar[str] = "pair"
    members: ClassVar[dict] = {}

    @contextlib.contextmanager
    def assemble(self):
        yield self.members[threading.current_thread().name]

    @contextlib.contextmanager
    def open(self, context):
        with Cpu(threads=1).open(context) as session:
            yield Shared(session, self.members[threading.current_thread().name].rank)


def go_in_pairs(config, places, clocks, max_seconds=None):
    """Both ranks' results, or what they raised."""
    meeting, found = Meeting(), [None, None]
    Pair.members.update({f"rank-{rank}": Member(rank, meeting) for rank in range(2)})

    def work(rank):
        watching = [("clock", Watching(session=clocks))]
        try:
            found[rank] = run(config, places[rank], watching, quiet=True, max_seconds=max_seconds[rank])
        except BaseException as error:
            found[rank] = error
            if not isinstance(error, StoppedError):
                meeting.break_off()

    max_seconds = max_seconds or [None, None]
    threads = [threading.Thread(target=work, args=(rank,), name=f"rank-{rank}") for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_in_a_crew_the_first_rank_writes_and_all_stop_and_go_on_together(tmp_path, clock, monkeypatch):
    """Broken: ranks would write over one another, wait for ever, or go on from different steps."""
    written, real = [], atomic._write

    def noted(path, *given):
        written.append((threading.current_thread().name, path))
        return real(path, *given)

    monkeypatch.setattr(atomic, "_write", noted)
    config = config_of({"experts": {"count": 3}}, executor=Pair())

    def places(name):
        # The second rank's own --out would be wrong; it hears of the first one's.
        return [Places(out=tmp_path / n, experts=tmp_path / "experts") for n in (name, "nowhere")]

    whole = go_in_pairs(config, places("whole"), clock)
    assert [r.directory for r in whole] == [tmp_path / "whole"] * 2
    assert (
        whole[0].summary.to_json()
        == whole[1].summary.to_json()
        == json.loads((tmp_path / "whole" / "summary.json").read_text())
    )
    assert not (tmp_path / "nowhere").exists()
    assert {rank for rank, path in written if tmp_path / "whole" in path.parents} == {"rank-0"}
    assert {rank for rank, path in written if path.name.startswith("expert-")} == {"rank-0", "rank-1"}
    events = lines(tmp_path / "whole")
    assert sorted(e["seed"] for e in events if e["event"] == "expert") == [0, 1, 2]
    assert len([e for e in events if e["event"] == "step"]) == 7
    assert [m.aligned > 0 for m in Pair.members.values()] == [True, True]

    # Time is over for the second rank alone, which may look before or after the first one has told of the step.
    errors = go_in_pairs(config, places("parts"), clock, [None, 3.5])
    assert re.search("after outer step [45] of 7; the same command goes on from there", str(errors[0]))
    assert isinstance(errors[1], StoppedError) and str(errors[0]) == str(errors[1])
    finished = go_in_pairs(config, places("parts"), clock)
    assert not finished[1].already_finished
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")
    assert told(tmp_path / "parts") == told(tmp_path / "whole")
    again = go_in_pairs(config, places("parts"), clock)
    assert [r.already_finished for r in again] == [True, True] and again[1].directory == tmp_path / "parts"


def test_a_crew_stops_between_rounds_of_experts(tmp_path, clock):
    """Broken: one rank would leave while the others train on, and the store would lack experts without a word."""
    config = config_of({"experts": {"count": 3}}, executor=Pair())
    places = [Places(out=tmp_path / "run", experts=tmp_path / "experts")] * 2
    errors = go_in_pairs(config, places, clock, [0.5, None])
    assert [str(e) for e in errors] == [
        "time is over: stopped after 2 of 3 experts; the same command goes on from there"
    ] * 2
    assert all(r.summary for r in go_in_pairs(config, places, clock))


def test_a_plain_executor_is_a_crew_of_one(tmp_path, experts, monkeypatch):
    """Broken: an executor that assembles nobody else would behave differently from one that assembles itself."""

    @attrs.frozen(kw_only=True)
    class Alone(AbstractExecutor):
        name: ClassVar[str] = "cpu"
        threads: int | None = 1

        @contextlib.contextmanager
        def assemble(self):
            yield Crew()

        def open(self, context):
            return Cpu(threads=self.threads).open(context)

    go(config_of({}), tmp_path / "plain", experts)
    go(config_of({}, executor=Alone()), tmp_path / "alone", experts)
    plain, alone = bytes_of(tmp_path / "plain"), bytes_of(tmp_path / "alone")
    assert plain.pop("card.json") and alone.pop("card.json"), "the executor's options stand in the card"
    assert plain == alone


def test_checkpoints_of_a_run_that_died_right_after_it_had_finished_go(tmp_path, experts, monkeypatch):
    """Broken: a finished run would keep a copy of what it learned that nobody needs."""
    config, out = config_of({"run": {"keep_checkpoint": False}}), tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr("ddfw.artifacts.checkpoint.remove", lambda folder: None)
        go(config, out, experts)
    assert (out / "checkpoints" / "latest.json").is_file()
    assert go(config, out, experts).already_finished and not (out / "checkpoints").exists()


@pytest.mark.parametrize("error", [PermissionError("held by another"), RuntimeError("a rank is gone")])
def test_a_run_that_has_its_summary_stays_finished_whatever_goes_wrong_afterwards(
    tmp_path, experts, monkeypatch, error
):
    """Broken: an error after the last file would write a failed run's manifest over a finished one's, for good."""
    config, out = config_of({"run": {"keep_checkpoint": False}}), tmp_path / "run"

    def fails(folder):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("ddfw.artifacts.checkpoint.remove", fails)
        expected = contextlib.nullcontext() if isinstance(error, OSError) else pytest.raises(RuntimeError, match="rank")
        with expected:
            go(config, out, experts)
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    assert go(config, out, experts).already_finished and not (out / "checkpoints").exists()


@attrs.frozen(kw_only=True)
class Watched(AbstractAugmentation):
    """Changes no image, and calls what it is given at each batch."""

    name: ClassVar[str] = "watched"
    call: ClassVar[Callable[[], None]]

    def draw(self, shape, rng):
        return NoAugmentation().draw(shape, rng)

    def apply(self, images, draws):
        Watched.call()
        return images


@pytest.mark.parametrize("moment", ["inner step", "selection", "last selection"])
@pytest.mark.parametrize("reason", ["time", "signal"])
def test_a_stop_acts_at_the_next_inner_step_and_what_it_ends_is_done_again(
    tmp_path, experts, clock, monkeypatch, moment, reason
):
    """Broken: a preempted job would be killed in the middle of a long step and lose what it learned before."""
    began = {"inner step": 4, "selection": 3, "last selection": 7}[moment]
    seen, armed = [], [False]

    def look():
        seen.append(clock.steps[-1] if clock.steps else 0)
        # Of the batches after step 4 the second is one of step 5, of those after step 3 or 7 one of a selection.
        if armed[0] and seen.count(began) == 2:
            armed[0] = False
            clock.seconds += 100
            if reason == "signal":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Watched, "call", staticmethod(look), raising=False)
    config = config_of({}, augment=Watched())
    go(config, tmp_path / "whole", experts, clock)
    clock.steps.clear(), seen.clear()
    clock.seconds, armed[0] = 0.0, True
    ends = StoppedError if reason == "time" else KeyboardInterrupt
    with pytest.raises(ends) as caught:
        go(config, tmp_path / "run", experts, clock, max_seconds=50.0 if reason == "time" else None)
    if reason == "time":
        assert f"stopped after outer step {began} of 7" in str(caught.value)
    assert seen.count(began) == 2, "it went on after the batch in which the stop came"
    assert clock.steps == list(range(1, began + 1))
    go(config, tmp_path / "run", experts, clock)
    assert clock.steps == list(range(1, 8))
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_time_that_is_over_stops_experts_and_the_evaluation_between_two_batches(tmp_path, clock, monkeypatch):
    """Broken: an expert or an evaluation of an hour would be killed by the queue, again and again."""
    late = [False]

    def look():
        clock.seconds += 100 * late[0]
        assert not late[0] or clock.seconds < 200, "it went on after the batch in which the time was over"

    monkeypatch.setattr(Watched, "call", staticmethod(look), raising=False)
    config = config_of({}, augment=Watched())
    late[0] = True
    with pytest.raises(StoppedError, match="stopped after 0 of 2 experts"):
        go(config, tmp_path / "run", tmp_path / "experts", clock, max_seconds=50.0)
    late[0], clock.seconds = False, 0.0

    def after(report):
        late[0] = clock.steps[-1:] == [7]
        return evaluated(report)

    evaluated = clock.evaluated
    clock.evaluated = after
    with pytest.raises(StoppedError, match="stopped in the evaluation"):
        go(config, tmp_path / "run", tmp_path / "experts", clock, max_seconds=50.0)
    assert not (tmp_path / "run" / "summary.json").exists()
