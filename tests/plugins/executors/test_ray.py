"""`ray`: the same numbers as in this process, and nothing lost or done twice when a worker dies."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from attrs import evolve, frozen

from ddfw import AbstractModel, DataError, DdfwError, DivergedError, LabelledImages, OptionError, TrainingSettings
from ddfw.config.catalog import component
from ddfw.config.load import configure, resolve
from ddfw.pipeline.prepare import set_up
from ddfw.remote import tasks
from ddfw.testing import check_executor
from ddfw_plugins.executors import _ray_cluster, _ray_tasks
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.executors.ray import Ray
from ddfw_registry import ConfigError, ConfigProblem

try:
    import ray as library
except ImportError:
    library = None

needs_ray = pytest.mark.skipif(library is None, reason="the package ray is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's processes in /proc")
#: A module that workers can import: what misbehaves in them.
ELSEWHERE = '''
import os, signal
from pathlib import Path
from typing import ClassVar, final
from attrs import frozen
from ddfw import AbstractModel, DataError, Stream, option
from ddfw.config.catalog import component
from ddfw.randomness import derive_seed

NOTES = Path(__file__).parent / "notes"

def note(what):
    with open(NOTES, "a") as file:
        file.write(f"{what}\\n")

def doubled(payload):
    note(f"called {payload['number']}")
    if payload["dies"] and not Path(payload["dies"]).exists():
        Path(payload["dies"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"double": 2 * payload["number"], "here": os.getcwd()}

def refuses(payload):
    note("refused")
    raise DataError(f"no file {payload['number']}")

def farms_out(payload):
    from ddfw_plugins.executors.ray import Ray

    inner = [{"number": n, "dies": ""} for n in range(2)]
    return {"sum": sum(r["double"] for _, r in Ray().scatter("ddfw_elsewhere:doubled", inner))}

@final
@frozen(kw_only=True)
class Fragile(AbstractModel):
    """Its initialisation for one expert is not finite, or kills the process."""

    name: ClassVar[str] = "fragile"
    seed: int = option(0, help="of that expert")
    kills: bool = option(False, help="the process")

    def build(self, spec):
        return component("model", "mlp").build(spec)

    def init(self, module, rng):
        theta = super().init(module, rng)
        if rng.initial_seed() == derive_seed(self.seed, Stream.EXPERT_INIT):
            note("fragile")
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            theta[:] = float("inf")
        return theta
'''
SMALL = ("model.depth=2", "model.width=8", "experts.epochs=2", "experts.count=4", "executor.threads=1")
SETTINGS = TrainingSettings(epochs=2, lr=0.05, momentum=0.5, weight_decay=1e-3, batch_size=64)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The module, importable here and in workers that are started from now on."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "ddfw_elsewhere.py").write_text(ELSEWHERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        patch.syspath_prepend(folder)
        import ddfw_elsewhere

        yield ddfw_elsewhere
        del sys.modules["ddfw_elsewhere"]


@pytest.fixture(scope="module")
def cluster(elsewhere):
    """Two workers, started as a notebook would, so that they serve all tests."""
    with _ray_cluster.connected("", 2):
        yield elsewhere
    assert not library.is_initialized()


@pytest.fixture
def notes(cluster):
    """How often something happened in the workers."""
    cluster.NOTES.write_text("")
    return lambda what: cluster.NOTES.read_text().splitlines().count(what)


@pytest.fixture(scope="module")
def setup():
    """Digits and a tiny network."""
    return set_up(resolve(configure("default", {}, SMALL).config), None)


def splits(setup):
    return (setup.encode(split, torch.device("cpu")) for split in (setup.splits.train, setup.splits.validation))


def fragile_ground(setup, cluster, **options):
    from ddfw.engine.inner import Network, build_module

    model = cluster.Fragile(**options)
    module = build_module(model, setup.splits.spec)
    return evolve(setup.with_config(evolve(setup.config, model=model)), module=module, network=Network(module))


def trained(executor, setup, seeds, into=None, settings=SETTINGS):
    found = {} if into is None else into
    train, validation = splits(setup)
    told = []
    with executor.open(setup.context()) as session:
        for expert in session.train_experts(settings, train, validation, seeds, lambda *at: told.append(at)):
            assert expert.seed not in found
            found[expert.seed] = expert
    assert len(set(told)) == len(told)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below one."""
    below, lines = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number = int(stat.parent.name)
            below.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(number)
            lines[number] = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    found, todo = {}, [pid]
    while todo:
        for child in below.get(todo.pop(), []):
            found[child] = lines[child]
            todo.append(child)
    return found


def none_is_left(lines: dict[int, str]) -> bool:
    """Whether these processes end within a few seconds; a number may have been given to another program."""
    for _ in range(100):
        there = [n for n, line in lines.items() if "ray" in line and Path(f"/proc/{n}/cmdline").exists()]
        if not any("ray" in (Path(f"/proc/{n}/cmdline")).read_text() for n in there if Path(f"/proc/{n}").exists()):
            return True
        time.sleep(0.1)
    return False


@needs_ray
def test_it_keeps_the_contract(cluster):
    """Broken: experts, gradients or evaluations differ from the engine's, or global state is left changed."""
    check_executor(Ray(workers=2))


@needs_ray
def test_experts_on_two_workers_are_the_serial_ones_byte_for_byte(cluster, setup):
    """Broken: where an expert is trained would change it."""
    found, wanted = (trained(e, setup, [0, 1, 2, 3]) for e in (Ray(workers=2, cpus=0.5), Cpu(threads=1)))
    assert sorted(found) == [0, 1, 2, 3]
    for seed, expert in wanted.items():
        assert found[seed].snapshots.numpy().tobytes() == expert.snapshots.numpy().tobytes()
        assert found[seed].validation_accuracy == expert.validation_accuracy
        assert found[seed].train_loss == expert.train_loss
    assert found[0].snapshots.numpy().flags.writeable and library.is_initialized()


@needs_ray
def test_so_they_are_with_several_threads(cluster, setup):
    """Broken: Ray's own choice of threads for a worker would shape experts."""
    few = evolve(SETTINGS, epochs=1, batch_size=256)
    found, wanted = (trained(e, setup, [4], settings=few)[4] for e in (Ray(threads=2), Cpu(threads=2)))
    assert found.snapshots.numpy().tobytes() == wanted.snapshots.numpy().tobytes()


@needs_ray
@pytest.mark.parametrize("purpose", ["select", "eval"])
def test_evaluations_are_the_engines(cluster, setup, purpose):
    """Broken: an accuracy would depend on the executor, or stand at another network's place."""
    train, validation = splits(setup)
    soft = LabelledImages(images=train.images[:30], targets=torch.eye(10)[train.targets[:30]])
    found = []
    for executor in (Ray(), Cpu(threads=1)):
        told = []
        with executor.open(setup.context()) as session:
            found.append(session.evaluate(SETTINGS, soft, validation, 7, range(1, 4), purpose, told.append))
        assert told == [1, 2, 3]
    assert found[0] == found[1]


@needs_ray
def test_an_expert_that_diverges_is_told_once_and_the_ones_before_it_are_kept(cluster, setup, notes):
    """Broken: a divergence would be retried, arrive as Ray's error, or take finished experts with it."""
    kept = {}
    with pytest.raises(DivergedError, match="expert of seed 2") as caught:
        trained(Ray(workers=2), fragile_ground(setup, cluster, seed=2), [0, 1, 2, 3, 4], kept)
    assert {0, 1} <= set(kept) and 2 not in kept
    assert type(caught.value) is DivergedError and notes("fragile") == 1
    assert "\n" not in str(caught.value) and "ray" not in str(caught.value).lower()
    assert "Traceback" in caught.value.__notes__[0]


@needs_ray
def test_a_worker_that_dies_again_and_again_ends_in_one_error_that_names_the_expert(cluster, setup, notes):
    """Broken: nobody would know which expert was lost, or the run would go on for ever."""
    kept = {}
    with pytest.raises(DdfwError, match=r"expert of seed 1 was lost .* 2 times .*retries = 1.* is kept") as caught:
        trained(Ray(workers=2, retries=1), fragile_ground(setup, cluster, seed=1, kills=True), [0, 1], kept)
    assert set(kept) == {0} and notes("fragile") == 2
    assert "\n" not in str(caught.value)


@needs_ray
def test_scattered_payloads_come_back_each_once_also_after_a_worker_was_killed(cluster, notes, tmp_path, monkeypatch):
    """Broken: a sweep on Ray would lose a trial, get one twice, or read its paths elsewhere."""
    monkeypatch.chdir(tmp_path)
    payloads = [{"number": n, "dies": "died" if n == 1 else ""} for n in range(4)]
    found = list(Ray(workers=2).scatter("ddfw_elsewhere:doubled", payloads))
    assert sorted(p for p, _ in found) == [0, 1, 2, 3]
    assert all(result == {"double": 2 * p, "here": str(tmp_path)} for p, result in found)
    assert [notes(f"called {n}") for n in range(4)] == [1, 2, 1, 1]
    assert list(Ray().scatter("ddfw_elsewhere:doubled", [])) == []


@needs_ray
@pytest.mark.extended
def test_scattered_work_may_itself_use_ray(cluster):
    """Broken: a sweep on Ray of runs on Ray would wait for CPUs that it holds itself, for ever."""
    found = dict(Ray().scatter("ddfw_elsewhere:farms_out", [{}, {}]))  # as many as the cluster has CPUs
    assert found == {position: {"sum": 2} for position in range(2)}


@needs_ray
def test_what_a_scattered_function_raises_arrives_as_it_is(cluster, notes):
    """Broken: the command line could not tell a user's mistake from ours."""
    with pytest.raises(DataError, match="no file 5") as caught:
        list(Ray(workers=2).scatter("ddfw_elsewhere:refuses", [{"number": 5}]))
    assert type(caught.value) is DataError and str(caught.value) == "no file 5" and notes("refused") == 1
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        list(Ray().scatter("no_such_module:f", [{}]))
    with pytest.raises(TypeError, match="JSON"):
        list(Ray().scatter("ddfw_elsewhere:doubled", [{"number": object()}]))


@needs_ray
def test_a_session_that_is_left_early_cancels_what_runs(cluster, setup):
    """Broken: an interrupt would leave tasks on a shared cluster, or a late generator start a cluster of its own."""
    train, validation = splits(setup)
    slow = TrainingSettings(epochs=100_000, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=16)
    with pytest.raises(KeyboardInterrupt), Ray(workers=2).open(setup.context()) as session:

        def interrupt(position, epoch):
            raise KeyboardInterrupt

        experts = session.train_experts(slow, train, validation, [0, 1], interrupt)
        next(experts)
    experts.close()
    for _ in range(200):
        if library.available_resources().get("CPU") == 2:
            break
        time.sleep(0.1)
    assert library.available_resources().get("CPU") == 2
    with pytest.raises(DdfwError, match="closed"):
        session.evaluate(SETTINGS, train, validation, 0, range(1), "eval", lambda done: None)


@needs_ray
def test_tasks_that_no_node_has_room_for_are_refused(cluster, setup):
    """Broken: the run would wait for ever."""
    for options, word in (({"cpus": 100}, "100 CPUs"), ({"gpus": 64}, "64 GPUs")):
        with pytest.raises(OptionError, match=word), Ray(**options).open(setup.context()):
            pass


@needs_ray
def test_what_a_session_says_of_itself(cluster, setup):
    """Broken: a manifest would not say where the work was done."""
    with Ray(cpus=0.5).open(setup.context()) as session:
        said = session.describe()
    assert said["type"] == "ray" and said["gradients"] == "cpu" and said["ray"] == library.__version__
    assert (said["nodes"], said["cpus"]) == (1, 2)
    assert said["task"]["cpus"] == 0.5 and "held_steps" in said


@pytest.mark.extended
@needs_ray
def test_a_running_cluster_is_used_and_left_running(cluster, tmp_path):
    """Broken: a run would start a cluster of its own, or shut down one that others use."""
    address = library.get_runtime_context().gcs_address
    words = ["experts", "train", "default", "--count", "1", "--set=experts.epochs=1", "--set=model.width=8"]
    start = [sys.executable, "-W", "error", "-m", "ddfw", *words, "--executor", "ray"]
    done = subprocess.run(
        [*start, f"--set=executor.address={address}"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "expert 1/1" in done.stderr
    ((_, result),) = Ray().scatter("ddfw_elsewhere:doubled", [{"number": 4, "dies": ""}])
    assert result["double"] == 8


@needs_ray
@needs_proc
@pytest.mark.extended
def test_a_killed_worker_loses_and_doubles_no_expert_and_leaves_no_process(elsewhere, tmp_path):
    """Broken: a node that goes away would cost an expert, the store's bytes, or leave a cluster running."""
    words = ["experts", "train", "default", "--count", "3", "--set=model.depth=2", "--set=model.width=8"]
    words += ["--set=experts.epochs=40", "--set=executor.threads=1", "--set=experts.batch_size=64"]
    start = [sys.executable, "-W", "error", "-m", "ddfw", *words, "--experts-dir"]
    on_ray = [str(tmp_path / "ray"), "--executor", "ray", "--set=executor.workers=2"]
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen([*start, *on_ray], stdout=out, stderr=out, cwd=tmp_path) as run:
        seen, killed = {}, None
        while run.poll() is None:
            there = descendants(run.pid)
            seen |= there
            training = [n for n, line in there.items() if line.startswith("ray::ddfw expert")]
            if killed is None and training and "epochs" in log.read_text():
                killed = training[0]
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.05)
    said = log.read_text()
    assert run.returncode == 0, said
    assert killed is not None and none_is_left(seen), said
    assert "Traceback" not in said and "Warning" not in said and said.count("expert 3/3") == 1
    subprocess.run([*start, str(tmp_path / "cpu"), "--executor", "cpu"], check=True, cwd=tmp_path, capture_output=True)
    (found,), (wanted,) = ((tmp_path / name).iterdir() for name in ("ray", "cpu"))
    assert found.name == wanted.name
    files = sorted(p.name for p in wanted.iterdir())
    assert sorted(p.name for p in found.iterdir()) == files and "expert-2.safetensors" in files
    for name in files:
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    assert list(json.loads((found / "index.json").read_text())["experts"]) == ["0", "1", "2"]


@needs_ray
@needs_proc
@pytest.mark.extended
def test_an_interrupted_run_ends_and_takes_its_cluster_with_it(tmp_path):
    """Broken: Ctrl-C would hang, print Ray's traceback, or leave a cluster running."""
    words = ["experts", "train", "default", "--count", "2", "--set=experts.epochs=3000", "--executor", "ray"]
    log = tmp_path / "log"
    start = [sys.executable, "-m", "ddfw", *words, "--set=executor.workers=1"]
    with log.open("w") as out, subprocess.Popen(start, stdout=out, stderr=out, cwd=tmp_path) as run:
        seen = {}
        while run.poll() is None and "epochs" not in log.read_text():
            seen |= descendants(run.pid)
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        run.wait(30)
    said = log.read_text()
    assert any(line.startswith("ray::ddfw expert") for line in seen.values()), said
    assert "stopped by SIGTERM" in said and "Traceback" not in said, said
    assert none_is_left(seen)


OWN_CLUSTER = """
import os, random, signal
import torch, ray
from ddfw.config.load import configure, resolve
from ddfw.pipeline.prepare import set_up
from ddfw_plugins.executors.ray import Ray

setup = set_up(resolve(configure("default", {}, ()).config), None)
before = dict(os.environ), signal.getsignal(signal.SIGTERM), random.getstate()
outer, inner = Ray(workers=1, cpus=0.5), Ray(workers=1, cpus=0.5)
first, second = outer.open(setup.context()), inner.open(setup.context())
session, other = first.__enter__(), second.__enter__()
assert session.describe()["cpus"] == 1
first.__exit__(None, None, None)
assert ray.is_initialized() and other.describe()["nodes"] == 1
try:
    second.__exit__(KeyError, KeyError("passes"), None)
except KeyError:
    pass
assert not ray.is_initialized()
after = dict(os.environ), signal.getsignal(signal.SIGTERM), random.getstate()
assert before == after, [k for k in before[0] | after[0] if before[0].get(k) != after[0].get(k)]
print("fine")
"""


@pytest.mark.extended
@needs_ray
def test_the_last_session_shuts_its_cluster_down_and_puts_everything_back(tmp_path):
    """Broken: networks of `[cross]` would lose the cluster under their feet, or it would stay when a run fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OWN_CLUSTER], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_without_ray_the_way_to_install_it_is_said(setup, monkeypatch):
    """Broken: a traceback about a missing module."""
    monkeypatch.setitem(sys.modules, "ray", None)
    state = random.getstate()
    with pytest.raises(OptionError, match=r'pip install "ddfw\[ray\]"'), Ray().open(setup.context()):
        pass
    assert random.getstate() == state


def test_an_address_where_nothing_answers_is_refused(setup, monkeypatch):
    """Broken: minutes of waiting, Ray's traceback, or a new cluster in place of the one that was asked for."""

    class Nothing:
        @staticmethod
        def is_initialized():
            return False

        @staticmethod
        def init(address, **options):
            assert address == "auto" and "num_cpus" not in options
            raise ConnectionError("Nobody\nthere. Please go.")

        @staticmethod
        def shutdown():
            pass

    monkeypatch.setattr(_ray_cluster, "library", lambda: Nothing)
    monkeypatch.setattr(_ray_cluster, "_CONNECTION", _ray_cluster._Connection())
    before = dict(os.environ)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, reason in (("auto", "Nobody there"), (f"127.0.0.1:{port}", ".*refused")):
        refused = pytest.raises(OptionError, match=rf"'{address}' \({reason}\); start one")
        with refused as caught, Ray(address=address, workers=2).open(setup.context()):
            pass
        assert caught.value.option == "address"
    assert dict(os.environ) == before


@frozen(kw_only=True)
class Homemade(AbstractModel):
    name: ClassVar[str] = "homemade"

    def build(self, spec):
        return component("model", "mlp").build(spec)


def test_a_component_of_a_notebook_cannot_travel(setup, monkeypatch):
    """Broken: the run would fail in a worker, after everything was prepared, or code would be sent around."""
    monkeypatch.setattr(Homemade, "__module__", "__main__")
    with pytest.raises(OptionError, match=r"network 'homemade' is a class of __main__ .*plugin .*executor cpu"):
        tasks.packed("model", Homemade())

    @frozen(kw_only=True)
    class Local(AbstractModel):
        name: ClassVar[str] = "local"

        def build(self, spec):
            raise NotImplementedError

    with pytest.raises(OptionError, match="network 'local'"):
        tasks.packed("model", Local())


def test_components_travel_as_their_tables(elsewhere):
    """Broken: an option would be lost on the way, or the table would not be data alone."""
    model = component("model", "convnet")
    record = json.loads(json.dumps(tasks.packed("model", model)))
    assert record["class"] == "" and record["table"]["name"] == "convnet" and tasks.unpacked(record) == model
    other = elsewhere.Fragile(seed=3)
    record = json.loads(json.dumps(tasks.packed("model", other)))
    assert record["class"] == "ddfw_elsewhere:Fragile" and tasks.unpacked(record) == other


@pytest.mark.parametrize(
    "error",
    [
        DivergedError("expert of seed 3: loss is not finite", step=4),
        OptionError("too small", "rank"),
        DataError("gone"),
        ConfigError((ConfigProblem(path="a.b", message="wrong"), ConfigProblem(path="c", message="wrong too"))),
        FileNotFoundError(2, "No such file", "data.npz"),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_arrive_as_they_were(error):
    """Broken: an exit code or a message would depend on where a function ran."""
    back = tasks.error_from(json.loads(json.dumps(tasks.error_record(error))))
    assert type(back) is type(error) and str(back) == str(error)
    for name in ("step", "option", "problems", "filename"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_an_error_of_unknown_class_arrives_as_one_of_ddfws():
    """Broken: an error of a library that this process lacks would hide what happened."""

    class Strange(Exception):
        pass

    back = tasks.error_from(tasks.error_record(Strange("what")))
    assert type(back) is DdfwError and str(back) == "Strange: what"


def test_a_worker_with_another_version_or_without_the_plugin_says_so(setup):
    """Broken: other code would train experts for this run's store."""
    job = tasks.pack_job(setup.context(), Cpu(), 1)
    train, judge = splits(setup)
    given = tasks.TaskData(train=train, test=judge, spec=setup.splits.spec)
    for wrong, words in (
        ({"ddfw": "0.0.1"}, "a worker has ddfw 0.0.1|a worker has ddfw .*, the run 0.0.1"),
        ({"model": {"kind": "model", "class": "", "table": {"name": "nowhere"}}}, "nowhere.*same plugins"),
        ({"model": {"kind": "model", "class": "nowhere:Net", "table": {}}}, "nowhere.*same plugins"),
    ):
        with pytest.raises(OptionError, match=words):
            tasks.remote_expert({**job, **wrong}, tasks.pack_settings(SETTINGS), given, 0, lambda epoch: None)


def test_what_a_network_was_built_for_is_found_from_its_answer(setup):
    """Broken: a worker would build another network."""
    train, _ = splits(setup)
    assert tasks.image_spec(setup.module, train.images[:1]) == setup.splits.spec


def test_read_only_arrays_become_tensors_on_the_same_memory_without_a_warning():
    """Broken: each task would copy the data set, or warn."""
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    tensor = _ray_tasks._tensor(array)
    assert tensor.data_ptr() == array.ctypes.data and torch.equal(tensor, torch.arange(6.0).double().reshape(2, 3))


def test_data_is_put_into_the_object_store_once():
    """Broken: every evaluation would send the test split again, or a changed set would be taken for the old one."""
    puts = []

    class Store:
        @staticmethod
        def put(array):
            puts.append(array.copy())
            return len(puts)

    shelf, data = _ray_cluster.shelf(Store), torch.zeros(3)
    assert [shelf.put(data), shelf.put(data)] == [1, 1]
    data += 1
    assert shelf.put(data) == 2 and puts[1].tolist() == [1, 1, 1]
    for _ in range(50):
        shelf.put(torch.zeros(2))
    assert len(shelf._there) <= 2


def test_more_than_one_gpu_has_to_be_whole():
    """Broken: Ray's own refusal in the middle of a run."""
    assert Ray(gpus=0.25).gpus == 0.25 and Ray(gpus=2).gpus == 2
    with pytest.raises(ValueError, match=r"whole, got 1\.5"):
        Ray(gpus=1.5)
