"""The format on the page about plugins, installed as a distribution of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddfw as package

ROOT = Path(__file__).parents[3]
RUN = ROOT / "tests" / "fixtures" / "v0_1" / "run"


def ddfw(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where installed distributions are found as anywhere."""
    command = [sys.executable, "-m", "ddfw", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )


@pytest.fixture(scope="module")
def files():
    """The modules that the page shows, by name."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"<!-- format: (\S+) -->\n```python\n(.*?)```", page, re.DOTALL))
    assert sorted(found) == ["csv_format.py", "csv_plugin.py"]
    return found


@pytest.mark.extended
def test_the_format_on_the_page_is_written_read_and_evaluated(files, tmp_path):
    """Broken: third parties could not add a format, or what the page shows does not work."""
    (tmp_path / "src").mkdir()
    for name, text in files.items():
        (tmp_path / "src" / name).write_text(text)
    (tmp_path / "src" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "ddfw-csv"\nversion = "1.0"\n'
        '[project.entry-points."ddfw.plugins"]\ncsv = "csv_plugin"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["csv_plugin.py", "csv_format.py"]\n'
    )
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(tmp_path / "src")], check=True, timeout=240)
    site = {"PYTHONPATH": str(tmp_path / "site")}

    listed = json.loads(ddfw("list", "format", "--json", cwd=tmp_path, **site).stdout)
    assert {row["name"]: row["plugin"] for row in listed}["csv"] == "ddfw-csv:csv"
    done = ddfw("export", str(RUN), "--format", "csv", "--out", "set", cwd=tmp_path, **site)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "set" / "set.csv").read_text().splitlines()) == 20
    done = ddfw("eval", "set", "--like", str(RUN), "--json", cwd=tmp_path, **site)
    assert done.returncode == 0, done.stderr
    own = package.evaluate(RUN, quiet=True).reports[0]
    assert json.loads(done.stdout)["accuracies"] == list(own.accuracies)
    with pytest.raises(package.PluginError, match="set is in the format 'csv', which no installed plugin reads"):
        package.load(tmp_path / "set")


def test_a_fault_in_a_format_is_reported_as_its_plugins(files, tmp_path):
    """Broken: a third party's bug would be called an internal error of ddfw."""
    broken = files["csv_format.py"].replace("rows = ", "rows = learned.nothing or ", 1)
    files = {**files, "csv_format.py": broken}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    outside = {"DDFW_PLUGINS": "csv_plugin", "PYTHONPATH": str(tmp_path)}
    done = ddfw("export", str(RUN), "--format", "csv", "--out", "set", cwd=tmp_path, **outside)
    assert done.returncode == 3 and "(format csv) failed in csv_format:write_csv: AttributeError" in done.stderr, (
        done.stderr
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "set").exists()
