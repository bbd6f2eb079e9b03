"""How far a configuration travels before the first stage of a run."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

import ddfw as package
from ddfw.cli.main import invoke
from ddfw.config.layers import Settings
from ddfw.config.run_config import RunConfig
from ddfw.contracts.records import ResolvedRun
from ddfw.pipeline.stages import Stages

ROOT = Path(package.__file__).parent
#: The floors of the house; a call to a file on a higher floor than the last one is a climb.
FLOORS = {"contracts": 3, "engine": 4, "artifacts": 4, "config": 5, "pipeline": 6, "forecast": 7, "cli": 8}
#: The files of the travellers' own classes, whose methods are no visits.
OWN = {"config/run_config.py", "contracts/records.py"}


class Arrived(BaseException):
    """The first stage was reached."""


def carries(value: object) -> bool:
    """Whether a value is a configuration, holds one, or is tables that become one."""
    tables = isinstance(value, dict) and bool({"param", "traj"} & set(value))
    held = getattr(value, "config", None)
    return tables or isinstance(value, Settings | RunConfig | ResolvedRun) or isinstance(held, RunConfig)


def test_a_configuration_visits_ten_files_and_climbs_back_three_times_at_most(here, monkeypatch):
    """Broken: somebody who follows a setting through the program would be lost.

    A visit is a call of a function in core with a configuration among its arguments, after a call in another file.
    """
    visits: list[str] = []

    def note(frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{ROOT}/"):
            return
        file = str(Path(code.co_filename).relative_to(ROOT))
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if file not in OWN and visits[-1:] != [file] and any(carries(frame.f_locals.get(name)) for name in names):
            visits.append(file)

    def arrive(self):
        sys.setprofile(None)
        raise Arrived

    monkeypatch.setattr(Stages, "run", arrive)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        with pytest.raises(Arrived):
            invoke(["run", "--param", "lss", "--traj", "mct", "-q"])
    finally:
        sys.setprofile(before)
    floors = [FLOORS[file.split("/")[0]] for file in visits]
    climbs = sum(after > before for before, after in itertools.pairwise(floors))
    assert len(set(visits)) <= 10 and climbs <= 3, visits
    assert {"config/load.py", "pipeline/runner.py", "pipeline/prepare.py"} <= set(visits)
