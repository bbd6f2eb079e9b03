"""`ddfw bench`: what it measures, how it counts, what it prints."""

from __future__ import annotations

import io
import json
import statistics

import pytest
import torch
from attrs import evolve
from rich.console import Console

from ddfw.cli.main import invoke
from ddfw_plugins.commands.bench import command, suite, timing
from ddfw_plugins.commands.bench.shapes import BENCH_GROUPS, BENCH_SHAPES
from ddfw_plugins.executors.cpu import Cpu

CPU = torch.device("cpu")
NOTHING = {"bench": "", "shape": "", "mode": "", "bytes": (1, 1)}
SMALL = evolve(BENCH_SHAPES["digits"], steps=3, width=8)


def test_pairs_are_interleaved_and_their_ratios_counted(monkeypatch):
    """Broken: a ratio compares times that were not taken in turn, or is not the median of the pairs'."""
    now, order = [0.0], []

    def takes(name, seconds):
        def work():
            order.append(name)
            now[0] += seconds[len([o for o in order if o == name]) - 1]

        return work

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    mine, other = [9.0, 1.0, 2.0, 6.0], [9.0, 2.0, 2.0, 2.0]
    found = timing.time_pairs(takes("a", mine), takes("b", other), 3, CPU)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"] or order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert found.median == statistics.median([0.5, 1.0, 3.0])
    assert (found.seconds, found.reference_seconds, found.pairs) == (2.0, 2.0, 3)
    assert found.low <= found.median <= found.high


def test_an_executor_is_measured_in_every_way_it_has():
    """Broken: compiled steps or held graphs are left out, or the plain modes compile."""
    ways = suite.executor_modes(Cpu(threads=1, compile=True))
    assert list(ways) == ["all graphs held", "no graph held", "compiled"]
    assert [executor.compile for executor, _ in ways.values()] == [False, False, True]
    assert [memory for _, memory in ways.values()] == [suite.HOLD_ALL, 0, 0]
    assert all(executor.threads == 1 for executor, _ in ways.values())


def test_rows_carry_ratio_error_and_bound(monkeypatch):
    """Broken: a row's numbers are not those of its work, or a broken bound is not seen."""
    ways = {mode: way for mode, way in suite.executor_modes(Cpu()).items() if mode != "compiled"}
    monkeypatch.setattr(suite, "executor_modes", lambda executor: ways)
    held, bare = suite.Benchmarks(executor=Cpu(), device=CPU, shapes=[SMALL], pairs=2).rows(["outer"])
    assert (held.mode, bare.mode) == ("all graphs held", "no graph held")
    assert held.note == "3 held" and held.ratio.pairs == 2
    assert max(held.error, bare.error) < 1e-4
    assert (held.bound, bare.bound) == (0.85, 1.05)
    assert evolve(held, bound=1e-9).kept is False and evolve(held, bound=1e9).kept is True
    record = json.loads(json.dumps(held.record()))
    assert record["value"] == held.value and record["ratio"]["pairs"] == 2 and record["kept"] == held.kept


def test_the_command_prints_a_table_or_json(capsys):
    """Broken: `ddfw bench` does not run, or its JSON lacks where the figures come from."""
    assert invoke(["bench", "--only", "augment", "--pairs", "1", "--json"]) == 0
    out = capsys.readouterr()
    record = json.loads(out.out)
    assert not out.err
    assert record["schema"] == 1 and record["torch"] == torch.__version__ and record["device"]["type"] == "cpu"
    shapes = {row["shape"] for row in record["rows"]}
    assert shapes == {f"{family} {what}" for family in ("scale", "rotate") for what in ("matrices", "8×8", "32×32")}
    assert all(row["error"] < 1e-4 for row in record["rows"])
    assert invoke(["bench", "--only", "augment", "--pairs", "1"]) == 0
    out = capsys.readouterr()
    assert "measuring augmentation, scale" in out.err and "quartiles" in out.out and "torch" in out.out


def test_a_broken_bound_is_said_and_shown_in_red():
    """Broken: people have to compare ratio and bound themselves, or bytes are shown as seconds."""
    row = suite.BenchRow(**{**NOTHING, "bench": "memory", "bytes": (3 * 2**20, 2**22)}, bound=0.7)
    about = {"device": {"threads": 1}, "cores": 2, "processor": "x86", "torch": "2", "python": "3"}
    lines = {}
    for bound in (0.7, 0.8):
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=120)
        console.print(command._table([evolve(row, bound=bound)], about))
        lines[bound] = next(line for line in console.file.getvalue().splitlines() if "MB" in line)
    assert "0.750" in lines[0.7] and "not ≤ 0.7" in lines[0.7] and "3 MB" in lines[0.7] and "4 MB" in lines[0.7]
    assert "\x1b[31m" in lines[0.7] and "\x1b[31m" not in lines[0.8] and "not" not in lines[0.8]


@pytest.mark.parametrize("as_json", [False, True])
def test_rows_are_printed_as_they_come_and_outlive_a_later_failure(monkeypatch, capsys, as_json):
    """Broken: twenty minutes of measurements are lost to the last one's fault, or half of them pass for the whole."""
    seen = []

    def rows(self, groups):
        yield suite.BenchRow(**{**NOTHING, "bench": "memory", "shape": "digits", "mode": "held"}, bound=2.0)
        seen.append(capsys.readouterr().err)
        raise OSError("no room")

    monkeypatch.setattr(suite.Benchmarks, "rows", rows)
    assert invoke(["bench", *(["--json"] if as_json else [])]) != 0
    said = capsys.readouterr()
    assert "no room" in said.err
    if as_json:
        assert seen == [""] and not said.out
    else:
        assert "memory, digits, held: 1.000 (≤ 2), 0 MB against 0 MB" in seen[0]
        assert "memory, digits" in said.out and "1.000" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "digit"], "Did you mean 'digits'?"),
        (["--only", "outre"], "outre"),
        (["--executor", "ray"], "take cpu or cuda"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, words, capsys):
    """Broken: a mistyped shape measures everything, or an executor of several processes gives a meaningless ratio."""
    assert invoke(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_group_can_be_measured_alone(monkeypatch):
    """Broken: `--only` offers what is not measured, or measures something else than it says."""
    for group in BENCH_GROUPS:
        monkeypatch.setattr(suite.Benchmarks, group, lambda self, group=group: [suite.BenchRow(**NOTHING, note=group)])
    measured = suite.Benchmarks(executor=Cpu(), device=CPU, pairs=1)
    assert [row.note for row in measured.rows(BENCH_GROUPS)] == list(BENCH_GROUPS)
    for group in BENCH_GROUPS:
        assert [row.note for row in measured.rows([group])] == [group]
