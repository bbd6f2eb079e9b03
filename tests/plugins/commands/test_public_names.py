"""The commands that ship with ddfw have no door that a third party's command lacks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddfw
import ddfw_plugins.commands

FOLDER = Path(ddfw_plugins.commands.__file__).parent


#: Parts of ddfw below the public names that a benchmark of the numerics measures, and the checks for plugin authors.
NUMERICS = ("ddfw.engine", "ddfw.contracts", "ddfw.testing")
PLUGINS = {
    **{name: FOLDER / name for name in ("sweep", "compare", "bench", "gradient")},
    "new-plugin": FOLDER / "new_plugin",
    **{name: FOLDER / f"{name}.py" for name in ("experts", "recipes", "export")},
    "formats": FOLDER.parent / "formats",
}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_command_or_format_uses_only_what_ddfw_exports(plugin):
    """Broken: a third party could not write this command."""
    used = set()
    place = PLUGINS[plugin]
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddfw":
                if plugin in ("bench", "gradient") and node.module.startswith(NUMERICS):
                    continue
                assert node.module == "ddfw", f"{path.name} imports from {node.module}"
                used.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("ddfw.")], path.name
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ddfw":
                used.add(node.attr)
    assert used and used <= set(ddfw.__all__)


@pytest.mark.parametrize("command", [name for name in PLUGINS if name != "formats"])
def test_help_of_a_command_does_not_load_torch(command):
    """Broken: `ddfw sweep --help` would take seconds."""
    code = (
        f"import sys; from ddfw.cli.main import invoke; assert invoke([{command!r}, '--help']) == 0; "
        "heavy = {'torch', 'numpy'} & set(sys.modules); sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
