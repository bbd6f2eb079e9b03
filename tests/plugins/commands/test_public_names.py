"""The commands that ship with ddfw have no door that a third party's command lacks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ddfw
import ddfw_plugins.commands

FOLDER = Path(ddfw_plugins.commands.__file__).parent


@pytest.mark.parametrize("command", ["sweep", "compare"])
def test_a_command_uses_only_what_ddfw_exports(command):
    """Broken: a third party could not write this command."""
    used = set()
    for path in sorted((FOLDER / command).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddfw":
                assert node.module == "ddfw", f"{path.name} imports from {node.module}"
                used.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("ddfw.")], path.name
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ddfw":
                used.add(node.attr)
    assert used and used <= set(ddfw.__all__)
