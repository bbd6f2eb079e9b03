"""`ddfw list`, `describe` and `plugins`: what is installed, for people and for programs."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from ddfw.kinds import KINDS


@pytest.fixture(scope="session")
def rows(ddfw):
    """All components."""
    said = ddfw("list", "--json")
    assert said.code == 0
    return json.loads(said.out)


def entry_points():
    return {e.name for e in importlib.metadata.entry_points(group="ddfw.plugins") if e.dist.name == "ddfw"}


def test_every_entry_point_of_ours_is_a_listed_component(rows):
    """Broken: a component would be installed but not found. Entry points are called kind-name."""
    ours = {f"{r['kind']}-{r['name']}" for r in rows if r["distribution"] == "ddfw"}
    assert ours == entry_points()
    assert {r["kind"] for r in rows} == {*(k.id for k in KINDS), "command", "format", "recipes"}


def test_each_row_says_who_offers_the_component(rows):
    """Broken: a component could not be traced to its package."""
    for row in rows:
        assert set(row) == {"kind", "name", "summary", "plugin", "distribution", "version"}
        assert row["summary"] and "\n" not in row["summary"]
        assert row["plugin"].startswith(f"{row['distribution']}:")
    ours = [r for r in rows if r["distribution"] == "ddfw"]
    assert {r["version"] for r in ours} == {importlib.metadata.version("ddfw")}


def test_one_kind_can_be_listed_alone(ddfw, rows):
    """Broken: `ddfw list traj` would show everything, or nothing."""
    said = ddfw("list", "traj", "--json")
    assert json.loads(said.out) == [r for r in rows if r["kind"] == "traj"]
    human = ddfw("list", "traj")
    assert human.code == 0 and "mct" in human.out and "lss" not in human.out and "\x1b" not in human.out


def test_plugins_are_listed_with_their_state(ddfw):
    """Broken: nobody could see why a component is missing."""
    said = ddfw("plugins", "--json")
    found = json.loads(said.out)
    assert said.code == 0
    for row in found:
        assert {"identity", "name", "distribution", "version", "status", "error", "value"} <= set(row)
        assert row["status"] in ("ok", "failed", "disabled")
        assert bool(row["error"]) == (row["status"] == "failed")
    ours = {r["name"] for r in found if r["distribution"] == "ddfw" and r["status"] == "ok"}
    assert ours == entry_points()
    assert [r["identity"] for r in found] == sorted(r["identity"] for r in found)
    human = ddfw("plugins")
    assert human.code == 0 and "ddfw:param-lss" in human.out and "\x1b" not in human.out


def test_every_component_is_described_with_documented_options(ddfw, rows):
    """Broken: an option without help, type or default could not be used without reading the source."""
    for row in (row for row in rows if row["kind"] in {k.id for k in KINDS}):
        said = ddfw("describe", row["kind"], row["name"], "--json")
        assert said.code == 0, said.err
        facts = json.loads(said.out)
        assert (facts["kind"], facts["name"], facts["summary"]) == (row["kind"], row["name"], row["summary"])
        assert facts["source"].endswith(".py") and facts["class"]
        for option in facts["options"]:
            assert {"name", "type", "default", "range", "help", "required"} <= set(option)
            assert option["type"] and option["help"], (row["name"], option["name"])
        human = ddfw("describe", row["kind"], row["name"])
        assert human.code == 0 and "\x1b" not in human.out
        for option in facts["options"]:
            assert option["name"] in human.out


def test_an_options_type_default_range_and_help_are_those_of_its_class(ddfw):
    """Broken: `ddfw describe` would tell other values than those that are used."""
    options = {o["name"]: o for o in json.loads(ddfw("describe", "param", "lss", "--json").out)["options"]}
    assert (options["rank"]["type"], options["rank"]["default"]) == ("integer", 8)
    assert ">= 1" in options["rank"]["range"] and "rank" in options["rank"]["help"]
    assert "own" in options["pairing"]["type"] and "all" in options["pairing"]["type"]
    assert options["rank_h"]["default"] is None and options["rank_h"]["required"] is False
    data = {o["name"]: o for o in json.loads(ddfw("describe", "data", "npz", "--json").out)["options"]}
    assert data["path"]["required"] is True
    assert data["validation"]["default"] == 0.1
    assert "required" in ddfw("describe", "data", "npz").out


def test_a_name_alone_is_described_and_a_kind_alone_is_listed(ddfw):
    """Broken: the kind would have to be known before a component can be looked up."""
    assert ddfw("describe", "lss").out == ddfw("describe", "param", "lss").out
    assert ddfw("describe", "lss", "--json").out == ddfw("describe", "param", "lss", "--json").out
    assert ddfw("describe", "param").out == ddfw("list", "param").out
    assert ddfw("describe", "param", "--json").out == ddfw("list", "param", "--json").out
    ddfw("describe", "lsss").refused(2, "'lsss'", "Did you mean 'lss'?", "ddfw list")
    for name in {r["name"] for r in json.loads(ddfw("list", "--json").out) if r["kind"] in {k.id for k in KINDS}}:
        assert ddfw("describe", name).code == 0


def test_a_name_of_several_kinds_is_refused_with_the_kinds(ddfw, here, monkeypatch):
    """Broken: one of two components would be shown as if there were no other."""
    (here / "twins.py").write_text(
        "from typing import ClassVar, final\nfrom attrs import frozen\n"
        "from ddfw import AbstractMatchingLoss, hookimpl\n"
        "@final\n@frozen(kw_only=True)\nclass Twin(AbstractMatchingLoss):\n    'A twin.'\n"
        "    name: ClassVar[str] = 'lss'\n    def loss(self, path, segment):\n        return path[-1].sum()\n"
        "@hookimpl\ndef ddfw_register_losses():\n    return [Twin]\n"
    )
    monkeypatch.setenv("DDFW_PLUGINS", str(here / "twins.py"))
    ddfw("describe", "lss").refused(2, "param, loss", "`ddfw describe loss lss`")
    assert ddfw("describe", "loss", "lss").code == 0


def test_summaries_are_short_and_plain(rows):
    """Broken: a newcomer would read formulas in a list."""
    for row in rows:
        assert "‖" not in row["summary"] and len(row["summary"]) <= 100, row["summary"]
        if row["kind"] in {k.id for k in KINDS}:
            assert len(row["summary"]) <= 92, row["summary"]


def test_the_list_is_grouped_by_kind_with_one_line_a_component(ddfw, rows):
    """Broken: a list of fifty components would be five pages of folded words, the more so if it is piped."""
    for columns in ("40", "80", "200"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", columns)
            lines = [line for line in ddfw("list").out.splitlines() if line.strip()]
            tables = {w: ddfw(*w).out.splitlines() for w in (("list", "param"), ("plugins",), ("recipes", "list"))}
        kinds = [*(k.id for k in KINDS), "command", "format", "recipes"]
        assert [line.split(" ")[0] for line in lines if not line.startswith(" ")] == kinds
        assert len(lines) == len(rows) + len(kinds)
        assert len(tables[("list", "param")]) == 1 + len([r for r in rows if r["kind"] == "param"])
        assert len(tables[("plugins",)]) == 1 + len(json.loads(ddfw("plugins", "--json").out))
        assert len(tables[("recipes", "list")]) == 1 + len(json.loads(ddfw("recipes", "list", "--json").out))
