"""Core and registry name no plugin: what they have to know of one is an attribute of its contract."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ddfw.config.catalog import catalog
from ddfw.config.extensions import commands, formats
from ddfw.config.recipes import recipes
from ddfw.kinds import KINDS

ROOT = Path(__file__).parents[1]

#: Words of core or registry that a plugin uses as a name, too: what the word means there.
EXPLAINED = {
    "cpu": "PyTorch's word for a device",
    "cuda": "PyTorch's word for a device",
    "default": "the recipe that a run starts from where no other fits; it may come from any plugin",
    "experts": "the table [experts] of a configuration, and the stage of a run in which experts are trained",
    "export": "the part of an export's card that holds what its writer returned",
    "extend": "the origin of a setting that `ddfw extend` has changed",
    "hard": "how a baseline's images are labelled: by their classes",
    "none": "a training space, and the type of TOML's missing value",
    "progress": "an event of a run, and the method of an observer's session that is told of it",
    "recipes": "the word of `ddfw list` for folders of recipes, beside `command` and `format`",
    "safetensors": "the library whose version the manifest records",
    "teacher": "how a baseline's images are labelled: by the experts",
}


def names() -> set[str]:
    """Every name that an installed plugin offers."""
    components = {entry.name for kind in KINDS for entry in catalog().entries(kind.id)}
    return components | {*commands().entries} | {*formats().entries} | {*recipes()}


def constants(tree: ast.AST) -> Iterator[ast.Constant]:
    """The string constants of a module that are neither docstrings, help texts nor types."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "metavar"):
            skipped.update(ast.walk(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node


@cache
def strings() -> dict[str, list[str]]:
    """Every string constant of core and registry, with the places where it stands."""
    found = dict[str, list[str]]()
    for folder in ("core/ddfw", "registry/ddfw_registry"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in constants(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(str(node.value), []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_core_and_registry_know_no_plugin_by_its_name():
    """Broken: core would treat a plugin of ours in a way that a third party's cannot have."""
    known = names()
    assert {text: places for text, places in strings().items() if text in known and text not in EXPLAINED} == {}


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_explanation_is_of_a_word_that_is_there(name):
    """Broken: an explanation that outlived its word would hide the next use of that name."""
    assert name in strings()


def test_a_name_in_core_would_be_found():
    """Broken: the comparison above could pass because it looks at nothing."""
    assert {"lss", "mct", "digits", "convnet", "torchrun", "sweep"} <= names()
    tree = ast.parse('"""Text."""\nif executor.name == "torchrun":\n    option("x", help="lss")\n')
    assert [node.value for node in constants(tree)] == ["torchrun", "x"]
