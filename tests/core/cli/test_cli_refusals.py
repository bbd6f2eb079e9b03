"""Mistakes on the command line: the right exit code, a few lines that name the place and the way out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


def test_a_mistyped_component_is_named_and_the_right_one_suggested(ddfw):
    """Broken: a typing mistake would leave the user alone."""
    ddfw("run", "--traj", "mtc").refused(2, "traj", "'mtc'", "Did you mean 'mct'?", "mtt")


def test_a_number_of_the_wrong_kind_is_not_rounded(ddfw):
    """Broken: rank 1.7 would silently become 1."""
    ddfw("run", "--param", "lss", "--set", "param.rank=1.7").refused(2, "param.rank", "1.7")


@pytest.mark.parametrize("value", ["true", "text", "[1]", "0", "-3", "nan"])
def test_other_wrong_values_are_refused_at_their_place(ddfw, value):
    """Broken: booleans would count as numbers, or a rank of 0 would crash later."""
    ddfw("run", "--param", "lss", "--set", f"param.rank={value}").refused(2, "param.rank")


def test_several_mistakes_are_reported_at_once(ddfw):
    """Broken: users would repair one mistake per attempt."""
    said = ddfw(
        "run", "--traj", "mtc", "--set", "param.rank=1.7", "--set", "eval.networks=1", "--set", "outer.stepps=3"
    )
    said.refused(2, "traj", "param.rank", "eval.networks", "outer.stepps", "Did you mean 'steps'?")


def test_a_flood_of_mistakes_is_cut_to_a_few_lines_that_say_so(ddfw):
    """Broken: the first message would scroll out of sight."""
    settings = [f"--set=outer.nonsense{i}=1" for i in range(30)]
    ddfw("run", *settings).refused(2, "outer.nonsense0", "more")


@pytest.mark.parametrize(
    ("setting", "right"),
    [("param.rnak=3", "rank"), ("outer.syn_step=3", "syn_steps"), ("evall.every=3", "eval"), ("run.sede=1", "seed")],
)
def test_an_unknown_option_or_table_suggests_the_right_one(ddfw, setting, right):
    """Broken: a misspelt setting would be ignored, and the run would not be what the user thinks."""
    wrong = setting.partition("=")[0].removesuffix(".every")
    ddfw("run", "--set", setting).refused(2, f"{wrong}:", f"Did you mean '{right}'?")


def test_an_option_of_another_component_is_unknown(ddfw):
    """Broken: `rank` for pixel would be dropped without a word."""
    ddfw("run", "--param", "pixel", "--set", "param.rank=3").refused(2, "param.rank", "unknown option")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "x"),
        ("--seed", "-1"),
        ("--seed", "1.5"),
        ("--ipc", "0"),
        ("--seeds", "1,1"),
        ("--seeds", "1,01"),
        ("--seeds", "1,,2"),
        ("--seeds", "a"),
        ("--seeds", ""),
        ("--seeds", "-1,2"),
        ("--seeds", "1,2", "--seed", "3"),
        ("--nonsense",),
        ("default", "default"),
    ],
    ids=" ".join,
)
def test_impossible_flags_are_usage_errors(ddfw, here, arguments):
    """Broken: a wrong seed list would start runs that are worthless as a statistic."""
    ddfw("run", "--dry-run", *arguments).refused(2)
    assert list(here.iterdir()) == []


def test_a_mistyped_command_or_kind_is_suggested(ddfw):
    """Broken: `ddfw lst` would leave the user alone."""
    ddfw("lisst").refused(2, "list")
    ddfw("list", "parma").refused(2, "'parma'", "Did you mean 'param'?", "traj")
    ddfw("describe", "parma", "lss").refused(2, "Did you mean 'param'?")


def test_describing_an_unknown_component_suggests_one(ddfw):
    """Broken: a mistyped name would end without a hint."""
    ddfw("describe", "param", "lsss").refused(2, "'lsss'", "Did you mean 'lss'?", "pixel")


def test_an_unknown_recipe_and_a_missing_file_are_configuration_errors(ddfw, here):
    """Broken: a wrong file name would be an internal error."""
    ddfw("run", "defualt").refused(2, "Did you mean 'default'?")
    ddfw("run", "none.toml").refused(2, "none.toml", "no such file")
    (here / "bad.toml").write_text("[run\n")
    ddfw("run", "bad.toml").refused(2, "bad.toml", "TOML")
    ddfw("run", "--set", "param.rank").refused(2, "--set", "key.path=value")


def test_missing_and_garbled_data_files_are_data_errors(ddfw, here):
    """Broken: a wrong data path would look like a configuration error, or a bug."""
    ddfw("run", "--data", "npz", "--set", "data.path=none.npz").refused(4, "none.npz", "data.path")
    said = ddfw("run", "--data", "npz", "--set", "data.path=none.npz", "--data-root", here / "data")
    said.refused(4, str(here / "data" / "none.npz"))
    (here / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    ddfw("run", "--data", "npz", "--set", "data.path=bad.npz").refused(4, "bad.npz")
    ddfw("run", "--data", "npz").refused(2, "data.path", "missing")


def test_a_budget_that_is_too_small_says_what_would_fit_and_that_does_fit(ddfw, tiny):
    """Broken: users would have to guess, or follow advice that fails too."""
    start = [*tiny, "--dry-run", "--set", "param.rank=8"]
    text = ddfw(*start, "--ipc", "1").refused(2, "param", "fit", "budget.ipc", "param.rank")
    ipc = int(re.search(r"budget\.ipc >= (\d+)", text)[1])
    rank = int(re.search(r"param\.rank <= (\d+)", text)[1])
    assert ipc > 1 and rank < 8
    assert ddfw(*start, "--ipc", ipc).code == 0
    assert ddfw(*start, "--ipc", ipc - 1).code == 2
    assert ddfw(*start, "--set", f"param.rank={rank}").code == 0
    assert ddfw(*start, "--set", f"param.rank={rank + 1}").code == 2
    assert ddfw(*start, "--set", "budget.accounting=pixels").code == 0


@pytest.mark.parametrize(
    ("traj", "epochs", "segment", "latest"), [("mtt", 5, 2, 4), ("mct", 5, 2, 4), ("mtt", 2, 2, 1)]
)
def test_a_window_that_opens_too_late_is_refused_at_the_first_impossible_epoch(
    ddfw, tiny, traj, epochs, segment, latest
):
    """Broken: segments would reach past the experts' last epoch. max_start is an exclusive end."""
    sets = (f"experts.epochs={epochs}", f"traj.expert_epochs={segment}")
    start = [*tiny, "--dry-run", "--traj", traj, *(f"--set={s}" for s in sets)]
    assert ddfw(*start, "--set", f"window.max_start={latest}").code == 0
    said = ddfw(*start, "--set", f"window.max_start={latest + 1}")
    said.refused(2, "window.max_start", f"<= {latest}", str(latest + 1))


def test_a_window_that_contradicts_itself_is_refused(ddfw):
    """Broken: an empty window would crash in the first outer step."""
    ddfw("run", "--set", "window.min_start=3").refused(2, "window", "min_start < start <= max_start")


def test_a_rank_above_the_image_side_is_refused_with_the_largest_possible(ddfw, tiny):
    """Broken: a rank that means nothing would be paid for."""
    ddfw(*tiny, "--dry-run", "--set", "param.rank=9", "--ipc", "5").refused(2, "param.rank", "at most 8")
    assert ddfw(*tiny, "--dry-run", "--set", "param.rank=8", "--ipc", "5").code == 0


def test_a_network_that_is_too_deep_for_the_image_is_refused(ddfw, tiny):
    """Broken: pooling an image away would crash inside PyTorch."""
    ddfw(*tiny, "--dry-run", "--set", "model.depth=9").refused(2, "model.depth", "at most 3")
    assert ddfw(*tiny, "--dry-run", "--set", "model.depth=3").code == 0


def test_a_place_that_holds_something_else_is_refused_and_left_alone(ddfw, tiny, here):
    """Broken: results would be mixed with a user's files."""
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("words")
    ddfw(*tiny, "--out", here / "mine").refused(1, str(here / "mine"), "--out")
    assert [p.name for p in (here / "mine").iterdir()] == ["thesis.tex"]
    (here / "file").write_text("words")
    ddfw(*tiny, "--out", here / "file").refused(1, "is a file")
    assert sorted(p.name for p in here.iterdir()) == ["file", "mine"]


def test_another_configuration_in_a_finished_place_is_refused(ddfw, finished):
    """Broken: a run would be overwritten by another one."""
    before = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    ddfw(*finished.arguments, "--seed", "9").refused(1, "another configuration", str(finished.out))
    assert {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("place", ["--out", "--experts-dir"])
def test_a_place_below_a_file_is_the_users_mistake_not_ours(ddfw, tiny, here, place):
    """Broken: a slip in a path would be reported as a bug of ddfw."""
    (here / "file").write_text("words")
    other = {"--out": "--experts-dir", "--experts-dir": "--out"}[place]
    said = ddfw(*tiny, "-q", other, here / "x", place, here / "file" / "below")
    assert said.code in (1, 2, 74), said.err
    said.refused(said.code, "file")


def test_the_console_script_gives_the_exit_code_to_the_shell(here):
    """Broken: scripts could not tell a failed run from a good one, or piped messages would carry colours."""
    command = [sys.executable, "-m", "ddfw", "run", "--traj", "mtc"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == "" and "Did you mean 'mct'?" in done.stderr and "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
