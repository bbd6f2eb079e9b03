"""The published JSON schemas against files that a run wrote."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource

from ddfw.cli.main import invoke

SCHEMAS = Path(__file__).parents[1] / "docs" / "schema"
TINY = (
    "model.depth=2 model.width=4 experts.count=2 experts.epochs=3 outer.steps=3 outer.syn_steps=3 eval.networks=2 "
    "eval.epochs=3 eval.full_epochs=1 eval.every=2 window.max_start=1 window.start=1 eval.baseline_lrs=[0.01]"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run and what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("run")
    out = io.StringIO()
    sets = [a for s in TINY.split() for a in ("--set", s)]
    with contextlib.redirect_stdout(out):
        code = invoke(["run", "--out", str(folder / "r"), "--experts-dir", str(folder / "e"), "--json", *sets])
    assert code == 0
    return folder / "r", out.getvalue().splitlines()


def validator(name):
    """The schema, with references between schemas resolved among our own files."""
    schemas = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in SCHEMAS.glob("*.json")}
    registry = Registry().with_resources([(n, Resource.from_contents(s)) for n, s in schemas.items()])
    return jsonschema.Draft202012Validator(schemas[name], registry=registry)


def test_files_and_events_keep_their_schemas(run):
    """Broken: a field that readers rely on is gone or has another type."""
    folder, lines = run
    validator("summary.json").validate(json.loads((folder / "summary.json").read_text()))
    validator("card.json").validate(json.loads((folder / "synthetic" / "card.json").read_text()))
    for path in (folder / "eval").glob("*.json"):
        validator("eval.json").validate(json.loads(path.read_text()))
    logged = (folder / "metrics.jsonl").read_text().splitlines()
    for line in (*lines, *logged):
        validator("event.json").validate(json.loads(line))
    assert [json.loads(line)["event"] for line in lines] == [json.loads(line)["event"] for line in logged]


@pytest.mark.parametrize("command", ["runs", "diff", "show"])
def test_what_commands_print_of_runs_keeps_its_schema(run, capsys, command):
    """Broken: a field that programs rely on is gone or has another type."""
    folder = str(run[0])
    assert invoke([command, *([folder, folder] if command == "diff" else [folder]), "--json"]) == 0
    validator(f"{command}.json").validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("name", ["summary.json", "card.json", "eval.json", "event.json", "diff.json", "show.json"])
def test_schemas_are_schemas_and_refuse_something(name):
    """Broken: a schema that accepts everything."""
    jsonschema.Draft202012Validator.check_schema(validator(name).schema)
    assert not validator(name).is_valid({"schema": 1})
    assert not validator(name).is_valid([])
