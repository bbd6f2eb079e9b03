"""The package as its users import it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import ddfw_registry


def test_importing_the_package_does_not_load_cattrs():
    """Every command, `--help` included, would start slower."""
    code = (
        "import sys, ddfw_registry; "
        "assert 'cattrs' not in sys.modules, 'loaded too early'; "
        "ddfw_registry.Structurer; assert 'cattrs' in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )


def test_every_public_name_exists():
    """`from ddfw_registry import *` and the documentation would name things that are not there."""
    for name in ddfw_registry.__all__:
        assert getattr(ddfw_registry, name).__doc__
    assert dir(ddfw_registry) == sorted(ddfw_registry.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ddfw_registry.nothing
