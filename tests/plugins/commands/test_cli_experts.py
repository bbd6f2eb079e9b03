"""`ddfw experts`: what is cached, and how to get rid of it."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest


@pytest.fixture
def cache(finished, here):
    """A copy of the finished run's expert cache."""
    return shutil.copytree(finished.experts, here / "cache")


def test_stores_are_listed_for_people_and_for_programs(ddfw, cache):
    """Broken: nobody would know what fills the disk."""
    said = ddfw("experts", "list", "--experts-dir", cache, "--json")
    (row,) = json.loads(said.out)
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    assert said.code == 0 and row["name"] == folder.name and row["folder"] == str(folder)
    assert (row["experts"], row["epochs"]) == (2, 3)
    assert row["key"]["data"]["name"] == "digits" and row["key"]["model"]["width"] == 4
    human = ddfw("experts", "list", "--experts-dir", cache)
    assert human.code == 0 and folder.name in human.out and "\x1b" not in human.out


def test_an_empty_cache_is_an_empty_list(ddfw, here):
    """Broken: the first `experts list` would fail."""
    assert json.loads(ddfw("experts", "list", "--json").out) == []
    said = ddfw("experts", "list")
    assert said.code == 0 and "no experts" in said.out
    assert list(here.iterdir()) == []


def test_a_store_is_removed_when_it_is_named_and_agreed_to(ddfw, cache):
    """Broken: the cache could not be emptied."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    said = ddfw("experts", "rm", folder.name, "--experts-dir", cache, "--yes")
    assert said.code == 0 and folder.name in said.out and "MB" in said.out
    assert list(cache.glob("*/index.json")) == [] and [p.name for p in cache.iterdir()] == ["rows"]


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("", False)])
def test_without_yes_it_asks_first(ddfw, cache, monkeypatch, answer, gone):
    """Broken: experts that took days would be gone by a slip."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    said = ddfw("experts", "rm", folder.name, "--experts-dir", cache)
    assert folder.exists() is not gone
    assert (said.code == 0) is gone
    assert "Traceback" not in said.err and "internal error" not in said.err


@pytest.mark.parametrize("name", ["nope", "../cache", ".", ""])
def test_unknown_names_remove_nothing(ddfw, cache, name):
    """Broken: a path would be taken for a name."""
    ddfw("experts", "rm", name, "--experts-dir", cache, "--yes").refused(4, "no expert store", "ddfw experts list")
    assert len(list(cache.glob("*/expert-*.safetensors"))) == 2


def test_a_store_that_is_a_link_is_not_followed_and_not_our_bug(ddfw, cache, here):
    """Broken: a cache that lies on another disk would be deleted there, or end as an internal error."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    (here / "links").mkdir()
    (here / "links" / "store").symlink_to(folder)
    said = ddfw("experts", "rm", "store", "--experts-dir", here / "links", "--yes")
    assert said.code in (0, 4) and "internal error" not in said.err, said.err
    assert len(list(folder.glob("expert-*.safetensors"))) == 2


def test_a_store_with_other_files_is_kept(ddfw, cache):
    """Broken: a user's notes would be deleted."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    (folder / "notes.txt").write_text("mine")
    ddfw("experts", "rm", folder.name, "--experts-dir", cache, "--yes").refused(4, "notes.txt")
    assert (folder / "notes.txt").read_text() == "mine" and len(list(folder.glob("expert-*"))) == 2
