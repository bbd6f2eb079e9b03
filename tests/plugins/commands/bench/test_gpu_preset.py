"""`ddfw bench --preset gpu`: every section answers, faults stay in their rows, and the time limit is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jsonschema
import pytest
import torch
from attrs import evolve

from ddfw.cli.main import invoke
from ddfw.testing import check_executor
from ddfw.testing._devices import _stand_in
from ddfw_plugins.commands.bench.gpu import numbers, preset, runs, stage, worker
from ddfw_plugins.commands.bench.gpu.cases import Cases, DeviceLost
from ddfw_plugins.commands.bench.gpu.preset import GpuPreset
from ddfw_plugins.commands.bench.gpu.sections import GPU_SECTIONS, LOST, plain_value
from ddfw_plugins.commands.bench.shapes import GPU_SHAPES
from ddfw_plugins.commands.bench.work import bench_work
from ddfw_plugins.executors.cuda import Cuda

SCHEMA = Path(__file__).parents[4] / "docs" / "schema" / "bench-row.json"
PRETENDED = stage.Stage(base=Cuda(), pretend=True)


def valid(rows):
    """The rows, after the published schema has seen each."""
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for row in rows:
        schema.validate(row)
    return rows


def of_kind(rows, kind):
    return [row for row in rows if row["kind"] == kind]


# The whole --------------------------------------------------------------------------------------------------------


def pretended(tmp_path, *arguments):
    """Runs the command in a process of its own; the rows of its file and of its standard output."""
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-m", "ddfw", "bench", "--preset", "gpu", "--pretend", "--json", "--out", str(out)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert all(row["pretend"] is True for row in rows)
    return valid(rows)


@pytest.mark.extended
def test_every_section_answers_without_an_error(tmp_path):
    """Broken: on the day that somebody has a GPU for eight minutes, a section fails for a reason a CPU could show."""
    rows = pretended(tmp_path)
    assert [row["section"] for row in of_kind(rows, "finished")] == list(GPU_SECTIONS)
    assert {row["section"] for row in of_kind(rows, "measured")} == set(GPU_SECTIONS)
    assert not of_kind(rows, "error")
    cases = [(row["section"], row["case"]) for row in rows if "case" in row]
    assert len(cases) == len(set(cases))
    last = rows[-1]
    assert last["kind"] == "end" and last["errors"] == 0 and last["left_out"] == []


def test_some_sections_can_be_asked_alone(tmp_path):
    """Broken: `--only` is ignored, a row misses the file or standard output, or the worker cannot be started."""
    rows = pretended(tmp_path, "--only", "capture", "--only", "machine")
    assert [row["section"] for row in of_kind(rows, "finished")] == ["machine", "capture"]
    failed, after = (row["found"] for row in of_kind(rows, "measured") if row["section"] == "capture")
    assert failed["captured"] is False and failed["told"] and failed["error"] < 1e-5
    assert after["error"] < 1e-5


@pytest.mark.extended
def test_a_limit_of_five_seconds_leaves_sections_out_and_says_so(tmp_path):
    """Broken: the preset runs longer than it was lent the machine for, or hides what it did not measure."""
    began = time.monotonic()
    rows = pretended(tmp_path, "--seconds", "5")
    assert time.monotonic() - began < 60  # the interpreter's own start included, on a busy machine
    left_out = [out["section"] for out in rows[-1]["left_out"] if not out["case"]]
    assert "memory" in left_out and "waits" in left_out
    finished = [row["section"] for row in of_kind(rows, "finished")]
    assert sorted({*finished, *left_out}) == sorted(GPU_SECTIONS)
    assert all(out["reason"] for out in rows[-1]["left_out"])


# Faults inside a section ------------------------------------------------------------------------------------------


def one_section(monkeypatch, function, until=1e12, name="capture"):
    """The rows of one section whose work is replaced."""
    rows = []
    monkeypatch.setattr(numbers, name, function)
    worker.run_section(GPU_SECTIONS[name], PRETENDED, until, lambda section, kind, **f: rows.append((kind, f)))
    return rows


def test_a_section_that_fails_gives_exactly_one_error_row(monkeypatch):
    """Broken: a failure ends the run, is told twice, or cannot be found in the code."""

    def failing(cases):
        cases.case("first", lambda: {"fine": 1})
        raise ValueError("no\nsuch thing")

    kinds = one_section(monkeypatch, failing)
    assert [kind for kind, _ in kinds] == ["began", "measured", "error", "finished"]
    error = kinds[2][1]["error"]
    assert (error["class"], error["message"]) == ("ValueError", "no such thing")
    assert any("failing" in line for line in error["traceback"])


def test_a_case_that_fails_ends_no_other_case(monkeypatch):
    """Broken: one way that a GPU cannot do hides the figures of all others."""

    def section(cases):
        cases.case("bad", lambda: 1 / 0)
        cases.case("good", lambda: {"ms": 1.0})

    kinds = one_section(monkeypatch, section)
    assert [(kind, facts.get("case")) for kind, facts in kinds[1:3]] == [("error", "bad"), ("measured", "good")]


def test_a_device_that_does_not_answer_ends_the_worker_with_its_own_code(monkeypatch):
    """Broken: after a fault that poisons the context, every further section fails for no fault of its own."""
    monkeypatch.setattr(stage.Stage, "usable", lambda self: False)

    def section(cases):
        cases.case("bad", lambda: 1 / 0)
        pytest.fail("went on")

    rows = []
    monkeypatch.setattr(numbers, "capture", section)
    with pytest.raises(DeviceLost):
        worker.run_section(GPU_SECTIONS["capture"], PRETENDED, 1e12, lambda section, kind, **f: rows.append(kind))
    assert rows == ["began", "error", "finished"]


def test_a_section_that_leaves_the_stream_of_a_capture_ends_the_worker(monkeypatch):
    """Broken: a capture that fails without an error makes the figures of all sections after it those of its stream."""
    monkeypatch.setattr(stage.Stage, "on_default_stream", lambda self: False)
    with pytest.raises(DeviceLost):
        one_section(monkeypatch, lambda cases: cases.case("fine", lambda: {}))


def test_a_profiler_that_fails_costs_no_other_figure(monkeypatch):
    """Broken: on a GPU whose counters may not be read, all times of outer steps are lost."""

    def refusing(**options):
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(stage, "profile", refusing)
    assert "INSUFFICIENT" in PRETENDED.kernels(lambda: None)["profiler"]


def test_waits_of_a_gpu_are_counted_where_ddfw_asked(monkeypatch):
    """Broken: PyTorch's own remark on the mode counts as a wait, or all waits are those of a line of PyTorch."""
    import warnings

    from ddfw.engine import finite

    class Tensors:
        @staticmethod
        def isfinite(images):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", UserWarning, stacklevel=1)
            return torch.isfinite(images)

    modes = []

    def mode(name):
        modes.append(name)
        warnings.warn("a prototype that does not detect all synchronizing operations", UserWarning, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", mode)
    before = warnings.showwarning
    with runs.device_waits() as found:
        monkeypatch.setattr(torch.Tensor, "isfinite", Tensors.isfinite)
        finite.require_finite_images(torch.ones(2, 1, 2, 2), "param", 0)
    assert modes == ["warn", "default"] and warnings.showwarning is before
    assert len(found) == 1 and next(iter(found)).startswith("ddfw/engine/finite.py:")


def test_what_does_not_fit_the_time_is_left_out_with_its_reason(monkeypatch):
    """Broken: a section starts that cannot be done in time, or nobody learns that it was not measured."""
    ((kind, facts),) = one_section(monkeypatch, pytest.fail, until=time.time() - 1)
    assert kind == "left_out" and "0 s were left" in facts["reason"]


def test_warnings_and_log_messages_stand_in_the_row_of_their_case(monkeypatch):
    """Broken: a step that fell back to run uncompiled is shown as a figure of compiled steps."""
    import logging
    import warnings

    def work():
        logging.getLogger("ddfw_plugins.executors.compiled").warning("runs uncompiled")
        warnings.warn("TF32 is off", UserWarning, stacklevel=1)
        return {}

    kinds = one_section(monkeypatch, lambda cases: cases.case("a", work) or cases.case("b", lambda: {}))
    assert kinds[1][1]["said"] == ["runs uncompiled", "TF32 is off"]
    assert kinds[2][1]["said"] == []


def test_figures_are_always_json():
    """Broken: a loss that is nan, the very thing to be found, makes a line that no reader of JSON takes."""
    found = plain_value({"a": float("nan"), "b": [float("inf"), 1.23456789], 3: torch.float32})
    assert found == {"a": "nan", "b": ["inf", 1.2346], "3": "torch.float32"}


# Faults of the worker ---------------------------------------------------------------------------------------------

FAKE = """
import json, os, signal, sys, time
order = json.loads(sys.argv[1])
def emit(section, kind, **facts):
    print(json.dumps({"section": section, "kind": kind, **facts}), flush=True)
def done(section):
    emit(section, "began")
    emit(section, "measured", case="a", given={}, found={"x": 1}, said=[], seconds=0.0)
    emit(section, "finished", seconds=0.0)
for name in order["sections"]:
    if name == "contract":
        emit(name, "began")
        ACT
    done(name)
"""


def faked(act, seconds=60.0, names=("machine", "contract", "capture")):
    """The rows of a preset whose worker does something bad in its section `contract`."""
    command = (sys.executable, "-c", FAKE.replace("ACT", act))
    return valid(list(GpuPreset(seconds=seconds, pretend=True, names=names, command=command).rows()))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("print('out of luck', file=sys.stderr); os._exit(9)", "exit code 9"),
        ("raise MemoryError('no room')", "exit code 1"),
        ("print('{\"schema', end='', flush=True); os._exit(9)", "exit code 9"),
    ],
)
def test_a_worker_that_dies_costs_one_error_row_and_its_own_section(act, words):
    """Broken: a crash of the driver ends the run, or is not told."""
    rows = faked(act)
    (error,) = of_kind(rows, "error")
    assert error["section"] == "contract" and words in error["error"]["message"]
    assert error["error"]["class"] == "WorkerDied"
    assert [row["section"] for row in of_kind(rows, "finished")] == ["machine", "capture"]
    assert rows[-1]["errors"] == 1 and rows[-1]["left_out"] == []


def test_what_a_worker_said_before_it_died_stands_in_its_row():
    """Broken: a crash leaves nothing to look for."""
    (error,) = of_kind(faked("raise MemoryError('no room')"), "error")
    assert error["error"]["traceback"][-1] == "MemoryError: no room"


def test_a_lost_device_is_taken_up_by_a_new_worker_without_another_error():
    """Broken: the error that was told already is told again as the death of a process."""
    act = f"emit(name, 'finished', seconds=0.0); os._exit({LOST})"
    rows = faked(act)
    assert not of_kind(rows, "error")
    assert [row["section"] for row in of_kind(rows, "finished")] == ["machine", "contract", "capture"]


def ended(pid):
    """Whether a process is over, its parent's knowledge of it apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_section_that_hangs_is_ended_at_the_limit_with_what_it_started(tmp_path):
    """Broken: a hanging kernel keeps the machine, or a run that the section started goes on and keeps the GPU."""
    began, pid = time.monotonic(), tmp_path / "pid"
    start = "import subprocess; child = subprocess.Popen(['sleep', '100'])"
    rows = faked(f"{start}; open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(100)", seconds=2.0)
    assert time.monotonic() - began < 20
    assert [(out["section"], out["reason"][:13]) for out in rows[-1]["left_out"]] == [
        ("contract", "still running"),
        ("capture", "no time was l"),
    ]
    assert of_kind(rows, "measured")
    while not ended(int(pid.read_text())):
        assert time.monotonic() - began < 30
        time.sleep(0.05)


def test_a_worker_that_cannot_start_is_told_of_and_ends():
    """Broken: an installation without a library makes the preset try for ever."""
    command = (sys.executable, "-c", "import no_such_library")
    rows = valid(list(GpuPreset(seconds=60, pretend=True, names=("machine", "contract"), command=command).rows()))
    assert [row["kind"] for row in rows] == ["error", "error", "end"]
    assert "no_such_library" in rows[0]["error"]["traceback"][-1]


def test_a_worker_ends_with_its_parent():
    """Broken: a killed run keeps the GPU."""
    code = f"from {preset.__name__} import end_with_parent; end_with_parent()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as child:
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(60) == -signal.SIGKILL


# The command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "gpu", "--shape", "digits"], "--shape is not for --preset gpu"),
        (["--preset", "gpu", "--pairs", "3"], "--pairs is not for --preset gpu"),
        (["--pretend"], "add --preset gpu"),
        (["--seconds", "5"], "add --preset gpu"),
        (["--preset", "gpu", "--executor", "cpu"], "not cpu"),
        (["--preset", "gpu", "--only", "expert"], "Known: machine"),
        (["--only", "waits"], "Known: outer"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(arguments, words, capsys):
    """Broken: an option is silently ignored, and eight minutes measure something else."""
    assert invoke(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_a_gpu_one_line_names_the_way_out(monkeypatch, capsys, tmp_path):
    """Broken: fourteen error rows, or a traceback, on a machine that cannot run the preset."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert invoke(["bench", "--preset", "gpu", "--out", str(tmp_path / "gpu.jsonl")]) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1
    assert "--pretend" in said.err and "executor.device" in said.err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_overwritten(tmp_path, capsys):
    """Broken: the rows of an earlier GPU are lost."""
    there = tmp_path / "gpu.jsonl"
    there.write_text("mine")
    assert invoke(["bench", "--preset", "gpu", "--pretend", "--out", str(there)]) == 2
    assert "is there already" in capsys.readouterr().err and there.read_text() == "mine"


def test_people_see_rows_as_they_come_and_a_table_at_the_end(monkeypatch, capsys):
    """Broken: eight minutes of silence, or an error that nobody sees in the table."""
    rows = faked("raise MemoryError('no room')")
    monkeypatch.setattr(preset.GpuPreset, "rows", lambda self: (row for row in rows))
    assert invoke(["bench", "--preset", "gpu", "--pretend"]) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == len(rows) and "machine [a]: x 1" in said.err
    assert "WorkerDied" in said.out and "left out: nothing" in said.out and "no figure means anything" in said.out


# What is measured -------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """The stand-in for an accelerator of the conformance checks, which takes no autocast, as the stage's device."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    with _stand_in() as device:
        monkeypatch.setattr(stage, "CPU", device)
        yield device


def test_the_contract_can_be_checked_on_another_device(elsewhere):
    """Broken: on a GPU the check itself mixes devices, so that its most valuable row says nothing of the executor."""
    check_executor(PRETENDED.executor(compile=False, graphs=False))


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", ["contract", "augmentation", "arithmetic", "capture", "outer-ipc1", "experts", "evaluations", "memory"]
)
def test_no_section_mixes_devices(elsewhere, name):
    """Broken: a section fails on a GPU because it made something on the CPU."""
    errors = []

    def emit(section, kind, **facts):
        errors.extend([facts] if kind == "error" else [])

    worker.run_section(GPU_SECTIONS[name], PRETENDED, 1e12, emit)
    assert errors == []


def test_the_references_of_the_sections_are_those_of_the_engine():
    """Broken: an error is measured against a reference that is wrong itself."""
    cases, rows = [], {}

    def emit(section, kind, **facts):
        cases.append((kind, facts))
        rows[facts.get("case")] = facts

    given = Cases(section=GPU_SECTIONS["arithmetic"], stage=PRETENDED, until=1e12, emit=emit)
    numbers.arithmetic(given)
    assert not [facts for kind, facts in cases if kind == "error"]
    for case in ("float32, eager", "tf32, CUDA graphs", "plain loop, defaults"):  # on a CPU there is no TF32
        assert 1e-9 < rows[case]["found"]["images_error"] < 1e-4, case  # float32, and not float64 itself
    assert 1e-3 < rows["bf16, CUDA graphs"]["found"]["images_error"] < 0.5


def test_what_waits_is_named_by_file_and_line():
    """Broken: the section says that something waits, and not where."""
    from ddfw.engine.finite import require_finite_images

    with runs.stand_in_waits() as found:
        require_finite_images(torch.ones(2, 1, 2, 2), "param", 0)
        torch.ones(3) + 1
    ((place, count),) = found.items()
    assert place.startswith("ddfw/engine/finite.py:") and count == 1


def test_published_batches_are_batches_and_classes_are_classes():
    """Broken: the peak of a problem with 5,000 images in 100 classes is that of another one."""
    work = bench_work(evolve(GPU_SHAPES["cifar100-ipc50"], width=2, images=200, steps=3))
    problem = work.problem
    assert problem.images.shape == (200, 3, 32, 32) and problem.targets.shape == (200, 100)
    assert [len(rows) for rows in problem.schedules[0].batches] == [125] * 3
    assert work.plain_gradient().images.shape == problem.images.shape
