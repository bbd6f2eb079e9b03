"""What the ranks of a crew say to each other; a test starts it with torchrun and reads what it prints."""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("error")

import attrs  # noqa: E402
import torch  # noqa: E402

from ddfw import DivergedError  # noqa: E402
from ddfw.testing._common import Checked  # noqa: E402
from ddfw.testing._executor import _CPU, SETTINGS, _Case  # noqa: E402
from ddfw_plugins.executors.torchrun import SharedSession, Torchrun  # noqa: E402


class Diverging:
    """An inner session in which one expert and two networks diverge."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def train_experts(self, settings, train, validation, seeds, on_epoch):
        for seed in seeds:
            if seed == 6:
                raise DivergedError("expert of seed 6", step=3)
            yield seed

    def evaluate(self, settings, subject, judge, seed, networks, purpose, on_network):
        for done, number in enumerate(networks, start=1):
            if number in (1, 2):
                time.sleep(0.2 * (number == 1))  # the later one diverges first
                raise DivergedError(f"network {number}")
            on_network(done)
        return (0.5,)


def caught(call) -> list:
    try:
        call()
    except DivergedError as error:
        return [str(error), error.step]
    return []


def segments_of(case: _Case, count: int):
    """A problem with `count` segments, and the segments."""
    problem, segments = case.problem(_CPU)
    more = [(problem.schedules[i % 2], attrs.evolve(segments[i % 2], expert=i)) for i in range(count)]
    more = [(s, attrs.evolve(g, target=g.target + 0.01 * i)) for i, (s, g) in enumerate(more)]
    return attrs.evolve(problem, schedules=tuple(s for s, _ in more)), [g for _, g in more]


def main() -> None:
    executor = Torchrun()
    case = _Case(subject=Checked("executor", executor), executor=executor, seed=0)
    with executor.open(case.context()) as alone:
        wanted = {n: alone.meta_gradient(*segments_of(case, n)) for n in (1, 2, 3)}
        facts = alone.describe()
    assert (facts["ranks"], facts["backend"]) == (1, None), facts

    with executor.assemble() as crew:  # several in one process, as with `--seeds`
        crew.wait()
    said = together(executor, case, wanted)
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    said["threads"] = [name for name in names if "gloo" in name or "heartbeat" in name]
    sys.stdout.write(json.dumps(said) + "\n")


def together(executor: Torchrun, case: _Case, wanted: dict) -> dict:
    with executor.assemble() as crew:
        importlib.import_module("torch.distributed.nn")  # as an optimiser's first step does
        with executor.assemble() as again:
            assert again is crew
        said = {"rank": crew.rank, "size": crew.size}
        said["shared"] = crew.share({"from": crew.rank, "text": "é", "nothing": None})
        said["gathered"] = crew.gather(["x" * 1000] * crew.rank)
        tensors = [
            torch.full((2, 3), float(crew.rank)),
            torch.tensor(crew.rank),
            torch.tensor([crew.rank == 0]),
            torch.full((3, 2), float(crew.rank), dtype=torch.bfloat16).T,
            torch.zeros(0),
        ]
        crew.align(tensors)
        said["aligned"] = [t.tolist() for t in tensors]
        with executor.open(case.context()) as session, executor.open(case.context()) as other:
            case.check_description(session)
            case.check_gradient(session)
            case.check_evaluation(other)
            said["worst"] = 0.0
            for count, one in wanted.items():
                found = session.meta_gradient(*segments_of(case, count))
                for name in ("images", "targets", "step_size", "loss"):
                    a, b = getattr(found, name), getattr(one, name)
                    said["worst"] = max(said["worst"], float((a - b).abs().max() / b.abs().max()))
            real, judge = case.data(8, 1), case.data(4, 2)
            said["told"], said["counted"] = [], []
            experts = session.train_experts(
                SETTINGS, real, judge, [3, 5, 7], lambda *position: said["told"].append(position)
            )
            said["seeds"] = [expert.seed for expert in experts]
            few = case.data(2, 5)
            session.evaluate(SETTINGS, few, judge, 0, range(3), "eval", said["counted"].append)
        broken = SharedSession(Diverging(crew.rank), crew)
        said["expert"] = caught(lambda: list(broken.train_experts(None, None, None, [4, 5, 7, 6], None)))
        said["network"] = caught(lambda: broken.evaluate(None, None, None, 0, range(4), "eval", lambda n: None))
        if crew.rank == 1:
            time.sleep(0.5)
    return said


main()
