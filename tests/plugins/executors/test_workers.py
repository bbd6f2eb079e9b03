"""Worker processes of the executor `cpu`: the same numbers, whatever happens to them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve, frozen

from ddfw import DdfwError, DivergedError, ImageSpec
from ddfw.contracts.evaluation import EvaluationTask, ask_sets
from ddfw.contracts.executor import ExecutorContext, LabelledImages
from ddfw.contracts.settings import GradientSettings, TrainingSettings
from ddfw.engine.inner import build_module
from ddfw.engine.interruption import interruptible
from ddfw.errors import Interrupted
from ddfw.remote import pool as pools
from ddfw.remote.channel import in_shared_memory
from ddfw.testing import check_executor
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.executors import _workers
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=2, width=8)
SETTINGS = TrainingSettings(epochs=3, lr=0.1, momentum=0.5, weight_decay=1e-3, batch_size=16)


def context_of(**changes):
    base = ExecutorContext(
        model=MODEL,
        module=build_module(MODEL, SPEC),
        augmentation=Siamese(),
        loss=Ratio(),
        gradient=GradientSettings(),
        dtype=torch.float32,
    )
    return evolve(base, **changes)


def data(n=50, seed=0):
    images = torch.randn(n, *SPEC.shape, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(images=images, targets=torch.arange(n) % 3)


def tasks_of(*rates, networks=3):
    return [
        EvaluationTask(
            settings=evolve(SETTINGS, lr=lr),
            train=data(20, 3 + n),
            test=data(30, 2),
            networks=range(networks),
            purpose="eval",
            classes=n == 0,
        )
        for n, lr in enumerate(rates)
    ]


def processes_of(session):
    return [worker.process for worker in session._workers._pool._workers]


def alive(pid):
    """Whether there is such a process that is more than an entry in a table."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def alone():
    """What one process finds: the experts of four seeds, and two sets evaluated."""
    with Cpu(workers=1).open(context_of()) as session:
        experts = list(session.train_experts(SETTINGS, data(), data(12, 1), [5, 6, 7, 8], lambda *at: None))
        return experts, dict(ask_sets(session, tasks_of(0.1, 0.02), 4, lambda *at: None))


def require_equal(found, wanted):
    experts, sets = found
    assert sorted(e.seed for e in experts) == [e.seed for e in wanted[0]]
    for mine, theirs in zip(sorted(experts, key=lambda e: e.seed), wanted[0], strict=True):
        assert torch.equal(mine.snapshots, theirs.snapshots), "an expert differs in its bits"
        assert mine.validation_accuracy == theirs.validation_accuracy
        assert mine.train_loss == theirs.train_loss
    for position, evaluated in wanted[1].items():
        assert sets[position].accuracies == evaluated.accuracies
    assert torch.equal(sets[0].predicted, wanted[1][0].predicted)
    assert sets[1].predicted is None


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(alone):
    """Broken: a run would depend on the machine's number of cores."""
    told, counted = [], []
    with Cpu(workers=3).open(context_of()) as session:
        experts = list(session.train_experts(SETTINGS, data(), data(12, 1), [5, 6, 7, 8], lambda *at: told.append(at)))
        sets = dict(ask_sets(session, tasks_of(0.1, 0.02), 4, lambda *at: counted.append(at)))
        processes = processes_of(session)
        assert len(processes) == 3
        assert session.describe()["workers"] == 3
    require_equal((experts, sets), alone)
    assert sorted(told) == [(p, e) for p in range(4) for e in (1, 2, 3)]
    assert sorted(counted) == [(p, n) for p in range(2) for n in (1, 2, 3)]
    assert all(process.poll() is not None for process in processes), "a worker outlives its session"


@pytest.mark.extended
def test_workers_that_are_killed_again_and_again_change_no_bit(alone):
    """Broken: a worker that the system ends for want of memory would take its expert with it, or spoil the next."""
    kills = []

    def kill(position, epoch):
        if epoch == 2 and len(kills) < 3:
            victim = next(w for w in session._workers._pool._workers if w.position == position)
            victim.process.send_signal(signal.SIGKILL)
            kills.append(position)

    with Cpu(workers=2).open(context_of()) as session:
        experts = list(session.train_experts(SETTINGS, data(), data(12, 1), [5, 6, 7, 8], kill))
        sets = dict(ask_sets(session, tasks_of(0.1, 0.02), 4, lambda *at: None))
    assert len(kills) == 3
    require_equal((experts, sets), alone)


@pytest.mark.extended
def test_a_piece_whose_worker_is_lost_each_time_is_an_error_that_says_so(monkeypatch):
    """Broken: a run on a machine with too little memory would start workers for ever."""
    monkeypatch.setattr(pools, "TRIES", 1)

    def kill(position, epoch):
        for process in processes_of(session):
            process.kill()

    with Cpu(workers=2).open(context_of()) as session:
        with pytest.raises(DdfwError, match=r"expert of seed \d was lost 1 times \(killed by signal 9.*workers = 1"):
            list(session.train_experts(SETTINGS, data(), data(), [5, 6], kill))
        left = processes_of(session)
    assert all(process.poll() is not None for process in left)


@pytest.mark.extended
def test_a_stop_ends_what_workers_are_doing_and_the_next_work_finds_new_ones(alone):
    """Broken: a time limit would wait for experts to end, or leave processes that nobody listens to."""
    wanted, seen = [], []

    def told(position, epoch):
        wanted.append(epoch)
        seen.extend(processes_of(session))

    with Cpu(workers=2).open(context_of()) as session:
        with pytest.raises(Interrupted), interruptible(lambda: bool(wanted)):
            list(session.train_experts(evolve(SETTINGS, epochs=3000), data(), data(12, 1), [5, 6], told))
        assert seen
        assert all(process.poll() is not None for process in seen)
        experts = list(session.train_experts(SETTINGS, data(), data(12, 1), [5, 6, 7, 8], lambda *at: None))
        sets = dict(ask_sets(session, tasks_of(0.1, 0.02), 4, lambda *at: None))
    require_equal((experts, sets), alone)


@pytest.mark.extended
def test_the_first_expert_that_diverges_is_the_one_that_is_named():
    """Broken: which error a user sees would depend on which worker was quicker."""
    with Cpu(workers=2).open(context_of()) as session, pytest.raises(DivergedError, match="expert of seed 5"):
        list(session.train_experts(evolve(SETTINGS, lr=1e20), data(), data(), [5, 6, 7], lambda *at: None))


@pytest.mark.extended
def test_a_set_that_diverges_leaves_the_others_their_figures(alone):
    """Broken: one learning rate that is too large would end the search for the best one."""
    with Cpu(workers=2).open(context_of()) as session:
        found = dict(ask_sets(session, tasks_of(1e20, 0.02), 4, lambda *at: None))
    assert isinstance(found[0], DivergedError)
    assert found[1].accuracies == alone[1][1].accuracies


@pytest.mark.extended
def test_workers_pass_the_check_of_executors():
    """Broken: the executor would break its contract as soon as it has workers."""
    check_executor(Cpu(workers=2))


def test_components_that_cannot_travel_stay_in_this_process_and_a_line_says_so(caplog):
    """Broken: a model in a notebook would end the run, or silently take one core."""

    @frozen(kw_only=True)
    class Here(ConvNet.__base__):
        name = "here"

        def build(self, spec):
            return MODEL.build(spec)

    model = Here()
    context = context_of(model=model, module=build_module(model, SPEC))
    with caplog.at_level(logging.WARNING), Cpu(workers=2).open(context) as session:
        for _ in range(2):
            found = list(session.train_experts(SETTINGS, data(), data(), [5, 6], lambda *at: None))
            assert len(found) == 2
            assert not processes_of(session)
    (words,) = [r.getMessage() for r in caplog.records]
    assert words.startswith("experts and networks are trained in this process, one after another: network 'here' is")
    assert "take executor cpu" not in words


def test_automatic_workers_are_started_only_where_the_work_is_worth_it(monkeypatch):
    """Broken: a run of a second would wait two seconds for processes, or a run of hours would take one core."""
    monkeypatch.setattr(Cpu, "workers_here", 2)
    with Cpu().open(context_of()) as session:
        assert not session._workers.take([(SETTINGS, data(), 4)])
        assert session._workers.take([(evolve(SETTINGS, epochs=10**6), data(), 4)])
        assert not session._workers.take([(evolve(SETTINGS, epochs=10**6), data(), 1)]), "one network is no company"
        assert not processes_of(session)
    with Cpu(workers=2).open(context_of()) as session:
        assert session._workers.take([(SETTINGS, data(), 2)])
        monkeypatch.setattr(_workers, "START_S", 0.0)
        assert not session._workers.take([(SETTINGS, data(), 1)])


def test_many_small_pieces_of_work_are_worth_workers_in_the_end(monkeypatch):
    """Broken: a run that selects a hundred times for a second each would never take a second core."""
    monkeypatch.setattr(Cpu, "workers_here", 2)
    monkeypatch.setattr(_workers.Workers, "_seconds", lambda *_: 0.8)
    with Cpu().open(context_of()) as session:
        taken = [session._workers.take([(SETTINGS, data(), 2)]) for _ in range(4)]
    assert taken == [False, False, True, True]


def test_the_number_of_threads_decides_the_number_of_automatic_workers(monkeypatch):
    """Broken: two threads in each of as many workers as there are cores would get into each other's way."""
    from ddfw_plugins.executors import cpu

    monkeypatch.setattr(cpu, "processors", lambda: 8)
    monkeypatch.setattr(cpu, "processor_memory", lambda: None)
    found = [Cpu(threads=threads).workers_here for threads in (None, 1, 2, 3, 8, 16)]
    assert found == [8, 8, 4, 2, 1, 1]
    assert Cpu(threads=2, workers=3).workers_here == 3
    for wrong in (0, -1, "many", 1.5, 1025):
        with pytest.raises(ValueError, match="workers has to be auto or a number"):
            Cpu(workers=wrong)


def test_little_memory_makes_automatic_workers_few(monkeypatch):
    """Broken: a container with all of its machine's cores and little of its memory would be ended by the system."""
    from ddfw_plugins.executors import cpu

    monkeypatch.setattr(cpu, "processors", lambda: 64)
    found = []
    for memory in (None, 2**40, 2**32, 2**28, 0):
        monkeypatch.setattr(cpu, "processor_memory", lambda memory=memory: memory)
        found.append(Cpu().workers_here)
    assert found == [64, 64, 6, 1, 1]
    assert Cpu(workers=5).workers_here == 5, "a number that was named holds"


def test_what_is_asked_for_while_workers_are_at_work_is_done_in_this_process(alone):
    """Broken: whoever evaluates something between two experts would get an error that one process does not give."""
    with Cpu(workers=2).open(context_of()) as session:
        pool = session._workers._pool
        pool._workers.append(SimpleNamespace(position=0))  # one that is at work for somebody else
        try:
            experts = list(session.train_experts(SETTINGS, data(), data(12, 1), [5, 6, 7, 8], lambda *at: None))
            sets = dict(ask_sets(session, tasks_of(0.1, 0.02), 4, lambda *at: None))
        finally:
            pool._workers.clear()
    require_equal((experts, sets), alone)


def test_networks_that_were_evaluated_keep_no_descriptor_open():
    """Broken: an evaluation of a thousand networks would end with "too many open files"."""

    class Played:
        started, busy, size = True, False, 2

        def run(self, pieces):
            for position in range(len(pieces)):
                block = in_shared_memory([torch.full((30,), position)])
                yield position, pools._outcome({"done": {"accuracy": 0.5}}, block)

    opened = []

    def told(position, done):
        opened.append(len(os.listdir("/proc/self/fd")))

    with Cpu(workers=2).open(context_of()) as session:
        session._workers._pool = Played()
        list(ask_sets(session, tasks_of(0.1, networks=40), 4, told))
    assert opened[-1] <= opened[0] + 2


def test_one_thread_trains_networks_and_the_session_says_so():
    """Broken: experts would have other bits on a machine with other cores, and nobody could see why."""
    threads = []

    @frozen(kw_only=True)
    class Looking(ConvNet.__base__):
        name = "looking"

        def build(self, spec):
            return MODEL.build(spec)

        def init(self, module, rng):
            threads.append(torch.get_num_threads())
            return MODEL.init(module, rng)

    before = torch.get_num_threads()
    model = Looking()
    context = context_of(model=model, module=build_module(model, SPEC))
    for threads_of_network, executor in ((1, Cpu(workers=1)), (2, Cpu(threads=2, workers=1))):
        with executor.open(context) as session:
            assert session.describe()["network_threads"] == threads_of_network
            list(session.train_experts(SETTINGS, data(), data(), [5], lambda *at: None))
            assert threads.pop() == threads_of_network
        assert torch.get_num_threads() == before


PARENT = """
import signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with Ctrl-C ignored
sys.path[:0] = {path!r}
from test_workers import SETTINGS, Cpu, context_of, data, evolve, processes_of
with Cpu(workers=2).open(context_of()) as session:
    def told(position, epoch):
        if epoch == 1:
            print(*[p.pid for p in processes_of(session)], flush=True)
    list(session.train_experts(evolve(SETTINGS, epochs=10**6), data(), data(), [5, 6], told))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.extended) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_no_worker_outlives_the_process_that_started_it(number, tmp_path):
    """Broken: a killed or interrupted run would leave processes that take cores and memory for hours."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT.format(path=[os.path.dirname(__file__)])))
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2, parent.stderr.read()
        assert all(map(alive, pids))
        parent.send_signal(number)
        parent.communicate(timeout=20)
        end = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(alive, pids))
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.slow
def test_a_worker_runs_no_file_of_the_working_directory(tmp_path, monkeypatch):
    """Broken: a folder with a file called torch.py or json.py would have its code run by every worker."""
    for name in ("torch", "json", "ddfw", "queue"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with Cpu(workers=2).open(context_of()) as session:
        assert len(list(session.train_experts(SETTINGS, data(), data(), [5, 6], lambda *at: None))) == 2
    assert not (tmp_path / "ran").exists()


TINY = (
    "model.depth=2 model.width=4 experts.count=3 experts.epochs=3 outer.steps=3 outer.syn_steps=3 eval.networks=3 "
    "eval.epochs=3 eval.full_epochs=1 eval.every=2 window.max_start=1 window.start=1 param.subspaces=2 param.rank=3"
)


@pytest.mark.extended
def test_a_run_writes_the_same_bytes_with_workers_and_without(tmp_path, monkeypatch):
    """Broken: what is learned, an expert or a figure of the table would depend on the number of cores."""
    from ddfw.artifacts.row_cache import list_rows
    from ddfw.cli.main import invoke

    rows = {}
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        monkeypatch.chdir(place)
        settings = [*TINY.split(), f"executor.workers={workers}", "eval.baseline_lrs=[0.01,0.02]"]
        command = ["run", "--param", "lss", "--traj", "mct", "--cross", "mlp", "-q", "--out", "run"]
        assert invoke([*command, *(word for s in settings for word in ("--set", s))]) == 0
        rows[workers] = {row.path.name: row.row.accuracies for row in list_rows(place / "experts")}
    assert rows[1] == rows[2] and len(rows[1]) >= 3
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    same = [f for f in files if f.suffix in (".safetensors", ".png") or f.name == "index.json"]
    same = [f for f in same if "checkpoints" not in f.parts]
    assert len(same) >= 8
    for file in same:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes(), file
