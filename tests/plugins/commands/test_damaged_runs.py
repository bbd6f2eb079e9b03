"""What each command says of a run of which a figure was edited, a file cut, or the data changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ddfw.artifacts import run_seals
from ddfw.errors import DataError


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished.out, tmp_path / "run"))


def edited(path: Path) -> None:
    """Another digit in the first number that has several."""
    text = path.read_text(encoding="utf-8")
    match = re.search(r"\d\.\d*?([1-9])", text)
    assert match is not None
    path.write_text(text[: match.start(1)] + str(int(match[1]) % 9 + 1) + text[match.end(1) :], encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["summary.json", "eval/distilled.json", "metrics.jsonl", "manifest.json", "config.toml"]
)
def test_no_command_believes_an_edited_figure(ddfw, finished, copied, name):
    """Broken: an accuracy that somebody typed would stand in tables, comparisons and pages."""
    if name == "config.toml":
        text = (copied / name).read_text()
        (copied / name).write_text(text.replace("step_size = 0.0", "step_size = 0.1", 1))
        assert text != (copied / name).read_text()
    else:
        edited(copied / name)
    there, out = ["--experts-dir", finished.experts], str(finished.out)
    again = [str(copied) if a == out else a for a in finished.arguments]
    for command in (again, ["eval", copied, *there], ["extend", copied, "--steps", 9, *there], ["diff", copied, out]):
        said = ddfw(*command)
        assert said.code == 4 and said.out == "" and f"{copied / name} is damaged" in said.err, said
    for command in (["runs", copied], ["show", copied], ["report", copied]):
        said = ddfw(*command)
        unreadable = (name, command[0]) == ("config.toml", "show")  # it has to say what the run is
        assert said.code == (4 if unreadable else 0) and f"warning: {copied / name} is damaged" in said.err, said
    listed = json.loads(ddfw("runs", copied, "--json").out)
    assert [(run["state"], run["accuracy"]) for run in listed] == [("damaged", None)]


def test_an_edited_trial_wins_no_sweep(ddfw, finished, tiny, tmp_path):
    """Broken: the accuracy of a trial could be typed into its summary."""
    settings = "\n".join(argument.removeprefix("--set=") for argument in tiny if argument.startswith("--set="))
    base = f"[base]\n{settings}\neval.baselines = []\n"
    text = f'[sweep]\nrecipe = "default"\n{base}[grid]\nouter.step_size = [0.01, 0.02]\n'
    (tmp_path / "mine.toml").write_text(text)
    command = ["sweep", tmp_path / "mine.toml", "--out", tmp_path / "all", "--experts-dir", finished.experts, "--quiet"]
    assert (said := ddfw(*command)).code == 0, said.err
    path = tmp_path / "all" / "trials" / "0001" / "summary.json"
    text = path.read_text()
    path.write_text(re.sub(r'"selected_accuracy": [\d.]+', '"selected_accuracy": 0.99', text))
    ddfw(*command).refused(4, f"{path} is damaged")
    path.write_text(text)
    record = tmp_path / "all" / "sweep.json"
    record.write_text(record.read_text().replace('"best": ', '"best":  '))
    said = ddfw(*command)
    assert said.code == 0 and f"warning: {record} is damaged or was edited" in said.err and "made again" in said.err
    # A trial whose process was killed within the last line is a finished one all the same.
    metrics = path.with_name("metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes()[:-40])
    said = ddfw(*command)
    assert said.code == 0 and f"{metrics} was cut within its last line" in said.err


def test_a_last_line_that_was_cut_is_removed_and_one_that_was_edited_is_not(ddfw, finished, copied):
    """Broken: a run that was finished when the disk was full would be called damaged for ever."""
    path = copied / "metrics.jsonl"
    whole = path.read_bytes()
    part = run_seals.read_manifest(copied)["metrics.jsonl"]["bytes"]
    again = [str(copied) if a == str(finished.out) else a for a in finished.arguments]
    path.write_bytes(whole[: part + 40])
    with pytest.raises(DataError, match="last line"):
        run_seals.require_whole(copied)
    said = ddfw(*again)
    assert said.code == 0 and "was cut within its last line" in said.err and "nothing to do" in said.err
    assert path.read_bytes() == whole[:part]
    path.write_bytes(whole.replace(b'"status": "finished"', b'"status": "Finished"'))
    ddfw(*again).refused(4, "metrics.jsonl is damaged or was edited: its last line")


def test_a_run_that_is_being_made_longer_is_not_called_damaged(finished, copied):
    """Broken: a longer run that was killed before its first step could not be begun again."""
    path, kept = copied / "metrics.jsonl", copied / "earlier" / "step-000003" / "metrics.jsonl"
    kept.parent.mkdir(parents=True)
    shutil.copy(path, kept)
    lines = path.read_bytes().splitlines(keepends=True)
    started = b'{"schema": 1, "event": "run_started", "first_step": 3}\n'
    for begun in (b"".join(lines[:5]), b"".join([*lines[:5], started])):
        path.write_bytes(begun)
        run_seals.require_metrics(copied)
    for damaged in (b"".join([*lines[:5], lines[6]]), b"x" + b"".join(lines[:5]), started[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"metrics\.jsonl"):
            run_seals.require_metrics(copied)
